"""Sparse wavelet details by an accelerated proximal gradient method.

    min_u 1/2 ||A C u - y||^2 + w ||(W u)_detail||_1,   x = C u

W: orthogonal wavelet transform, periodic.  C: crop; an image whose sides 2^levels does not divide is extended by free
pixels, so that W stays orthogonal and the shrinkage W^H shrink(W u, t w) the exact proximal map.
FISTA with step t = 1/||A||^2 (Beck and Teboulle 2009, eq. 4.1-4.3) and gradient restart (O'Donoghue and Candes 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import pywt
import torch
from torch import Tensor
from torch.nn.functional import pad

from recon.baselines.common import (
    finish,
    image_norm,
    l1_weight,
    linear_operator,
    require_positive,
    scaled_adjoint,
    start_from,
)
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import per_item_dot
from recon.priors.base import Denoiser, per_item
from recon.samplers.base import Method, NoiseSource, OnStep, Result, Step, ignore_step

FACTOR = 1.0  # of the default weight, to the backprojected noise
FLOOR = 2e-4  # of the default weight, to the largest value of A^H y


@final
@dataclass(frozen=True)
class Transform:
    """An orthogonal wavelet transform of images (B, C, ...).

    axes: those that are transformed: spatial, and long enough for one level.  extension: pixels added at the end of
    each axis.
    """

    wavelet: str
    levels: int
    axes: tuple[int, ...]
    extension: tuple[int, ...]

    @classmethod
    def for_shape(cls, wavelet: str, levels: int, shape: tuple[int, ...]) -> Transform:
        """Return the transform for images of `shape` (B, C, ...). Raises ConfigError where every side is too short."""
        length = pywt.Wavelet(wavelet).dec_len
        possible = {axis: pywt.dwt_max_level(shape[axis], length) for axis in range(2, len(shape))}
        axes = tuple(axis for axis, most in possible.items() if most > 0)
        if not axes:
            raise ConfigError(
                f"method 'wavelet': sides {shape[2:]} are too short for '{wavelet}'",
                f"use images of at least {2 * (length - 1)} pixels a side, a shorter wavelet such as haar, or tv",
            )
        levels = min(levels, *(possible[axis] for axis in axes))
        extension = tuple(-size % 2**levels if axis in axes else 0 for axis, size in enumerate(shape))
        return cls(wavelet, levels, axes, extension)

    def extend(self, x: Tensor) -> Tensor:
        """Return x with its extension filled with zeros: the adjoint of `crop`."""
        return pad(x, [side for added in reversed(self.extension) for side in (0, added)])

    def crop(self, u: Tensor) -> Tensor:
        """Return u without its extension."""
        return u[tuple(slice(0, size - added) for size, added in zip(u.shape, self.extension, strict=True))]

    def shrink(self, u: Tensor, threshold: Tensor) -> Tensor:
        """Return W^H shrink(W u): every detail coefficient c becomes c max(0, 1 - threshold/|c|).

        threshold: (B, 1, ...).
        """
        limit = threshold.cpu().numpy()
        smooth, *details = pywt.wavedecn(u.cpu().numpy(), self.wavelet, "periodization", self.levels, self.axes)
        shrunk = [{name: _soft(c, limit) for name, c in level.items()} for level in details]
        return torch.from_numpy(pywt.waverecn([smooth, *shrunk], self.wavelet, "periodization", self.axes)).to(u)

    def penalty(self, u: Tensor) -> Tensor:
        """Return ||(W u)_detail||_1 of each item, shape (B,)."""
        _, *details = pywt.wavedecn(u.cpu().numpy(), self.wavelet, "periodization", self.levels, self.axes)
        sums = [np.abs(c).reshape(len(c), -1).sum(1) for level in details for c in level.values()]
        return torch.from_numpy(np.sum(sums, axis=0)).to(u.device)


@final
@dataclass(frozen=True)
class Wavelet(Method):
    """Least squares with an l1 penalty on the detail coefficients of an orthogonal wavelet transform.

    weight: w, in units of the image times those of A^H A; None: the backprojected noise, at least 2e-4 times
        the largest value of A^H y.
    wavelet: an orthogonal one of PyWavelets.  levels: at most.  iterations: of FISTA.
    """

    weight: float | None = None
    wavelet: str = "db4"
    levels: int = 4
    iterations: int = 150
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "adjoint"})
    uses_prior: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    citation: ClassVar[str] = (
        "Daubechies, Defrise and De Mol 2004, Comm. Pure Appl. Math. 57; Beck and Teboulle 2009, SIAM J. Imaging Sci. 2"
    )

    def __post_init__(self) -> None:
        require_positive("wavelet", weight=self.weight, levels=self.levels, iterations=self.iterations)
        orthogonal = [name for name in pywt.wavelist(kind="discrete") if pywt.Wavelet(name).orthogonal]
        if self.wavelet not in orthogonal:
            raise ConfigError(
                f"method 'wavelet' has no orthogonal wavelet '{self.wavelet}'", "choose haar, db2 to db38, sym4, coif2"
            )

    @torch.no_grad()
    def sample(
        self,
        prior: Denoiser | None,
        problem: Problem,
        x_init: Tensor | None,
        noise: NoiseSource,
        shape: tuple[int, ...],
        on_step: OnStep = ignore_step,
    ) -> Result:
        """Return the last iterate from x_init, or from the scaled adjoint. Raises ConfigError if A is not linear."""
        operator, y = linear_operator(problem, "wavelet"), problem.y
        x = scaled_adjoint(operator, y)
        weight = per_item(l1_weight(self.weight, problem, operator, FACTOR, FLOOR), x)
        x = start_from(x_init, x)
        transform = Transform.for_shape(self.wavelet, self.levels, tuple(x.shape))
        step = 1 / max(image_norm(operator, y.device) ** 2, 1e-30)
        data = operator.adjoint(y)
        u = ahead = transform.extend(x)
        pace = torch.ones_like(weight)
        for index in range(self.iterations):
            slope = transform.extend(operator.normal(transform.crop(ahead)) - data)
            found = transform.shrink(ahead - step * slope, step * weight)
            # momentum that points uphill starts anew
            uphill = per_item(per_item_dot(ahead - found, found - u), x) > 0
            pace = torch.where(uphill, 1.0, pace)
            faster = (1 + torch.sqrt(1 + 4 * pace**2)) / 2
            ahead = found + torch.where(uphill, 0.0, (pace - 1) / faster) * (found - u)
            u, pace = found, faster
            on_step(Step(index, self.iterations, 0.0, transform.crop(u)))
        return finish(transform.crop(u), problem, shape, 2 * self.iterations)


def _soft(c: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Return c max(0, 1 - threshold/|c|)."""
    magnitude = np.abs(c)
    kept: np.ndarray = c * np.maximum(1 - threshold / np.maximum(magnitude, np.finfo(magnitude.dtype).tiny), 0)
    return kept
