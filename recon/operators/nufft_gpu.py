"""The Fourier transform at frequencies off the grid by cuFINUFFT, matrix-free, on CUDA GPUs.

Source: Shih, Wright, Anden, Blaschke, Barnett, cuFINUFFT, IPDPS Workshops 2021.
"""

from __future__ import annotations

import math
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ResourceError
from recon.operators.nufft import Finufft, Place, Transform


@final
class Cufinufft(Transform):
    """The transform by cuFINUFFT: what `Finufft` is on the CPU. Its plans work on the device's default stream."""

    def __init__(
        self,
        path: np.ndarray,
        shape: tuple[int, ...],
        together: int,
        accuracy: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Plan transforms of frequencies (M, d); `together`: images that one call takes, such as the coils."""
        try:
            import cufinufft
        except ImportError as err:
            raise ResourceError(
                "the package cufinufft is not installed", "pip install cufinufft (CUDA), or backend = 'gridding'"
            ) from err
        self.path, self.shape, self.together, self.accuracy = path, shape, together, accuracy
        self.weights = torch.ones((1,) * len(shape), dtype=dtype, device=device)
        self.kind = dtype.to_complex()
        # angles run along the axes of the array: slowest first
        angles = [
            torch.from_numpy(np.ascontiguousarray(2 * math.pi * path[:, d])).to(self.weights)
            for d in reversed(range(len(shape)))
        ]
        settings: dict[str, Any] = {"eps": accuracy, "dtype": "complex64", "modeord": 0}
        if dtype == torch.float64:
            settings["dtype"] = "complex128"
        if device.index is not None:
            settings["gpu_device_id"] = device.index
        self.plans = tuple(
            cufinufft.Plan(which, shape, together, isign=sign, **settings) for which, sign in ((2, -1), (1, 1))
        )
        for plan in self.plans:
            plan.setpts(*angles)

    def forward(self, images: Tensor) -> Tensor:
        return self._executed(0, images, self.shape, (len(self.path),))

    def adjoint(self, samples: Tensor) -> Tensor:
        return self._executed(1, samples, (len(self.path),), self.shape)

    def to(self, device: Place, dtype: torch.dtype | None) -> Transform:
        place = self.weights.device if device is None else torch.device(device)
        kind = self.weights.dtype if dtype is None else dtype
        return Finufft(self.path, self.shape, self.together, self.accuracy, self.weights.dtype).to(place, kind)

    def _executed(self, which: int, values: Tensor, shape: tuple[int, ...], out: tuple[int, ...]) -> Tensor:
        groups = values.detach().to(self.kind).reshape(-1, self.together, *shape).contiguous()
        found = groups.new_empty(len(groups), self.together, *out)
        for group, into in zip(groups, found, strict=True):
            self.plans[which].execute(group, out=into)
        return found.reshape(-1, *out)
