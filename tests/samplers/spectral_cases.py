"""Dense operators with known singular values, problems in the Fourier basis, and checks of the spectral samplers."""

from __future__ import annotations

import numpy as np
import torch
from sampler_doubles import generator, relative
from torch import Tensor

from recon.data import Problem
from recon.likelihoods import Gaussian
from recon.operators.base import LinearOperator
from recon.operators.matrix import DenseMatrix
from recon.operators.registry import build, draw
from recon.priors.base import Denoiser
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.samplers.base import Method, SeededNoise, Stats
from recon.schedules import vp_alpha_bars

SHAPE = (1, 1, 6, 6)
VALUES = (2.0, 1.0, 0.7, 0.4, 0.3, 0.2, 0.12, 0.1, 0.07, 0.05, 0.03, 0.004)  # the last is below 3 % of the first


def known_matrix(dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a wide matrix (12, 36) with the singular values VALUES."""
    kind = torch.complex128 if dtype.is_complex else torch.float64
    u = torch.linalg.qr(torch.randn(12, 12, generator=generator(1), dtype=kind)).Q
    v = torch.linalg.qr(torch.randn(36, 36, generator=generator(2), dtype=kind)).Q
    return (u * torch.tensor(VALUES, dtype=torch.float64)) @ v[:, :12].mH


def matrix_problem(dtype: torch.dtype, sigma: float) -> Problem:
    """Return the problem of `known_matrix` for images (1, 6, 6), in double or single precision."""
    operator = DenseMatrix(SHAPE[1:], (12,), known_matrix(dtype), dtype.is_complex).to(dtype=torch.float64)
    operator.matrix = known_matrix(dtype)  # not rounded to single precision
    y = torch.randn(1, 12, generator=generator(3), dtype=operator.out_dtype)
    if dtype.to_real() == torch.float32:
        operator, y = operator.to(dtype=torch.float32), y.to(dtype)
    return Problem(operator, y, Gaussian(sigma))


def operator_problem(kind: str, params: dict, shape: tuple[int, ...], sigma: float, dtype=torch.float64) -> Problem:
    """Return the problem of a registered operator with random measurements of a random image."""
    given = {"mask": (np.random.default_rng(0).random(shape[1:]) < 0.5).astype(np.uint8)} if kind == "mri" else None
    operator = build(draw(kind, params, shape, 0, given)).to(dtype=dtype)
    assert isinstance(operator, LinearOperator)
    truth = 0.5 * torch.randn(1, *shape, generator=generator(1), dtype=operator.in_dtype)
    y = operator.forward(truth)
    return Problem(operator, y + sigma * torch.randn(y.shape, generator=generator(2), dtype=y.dtype), Gaussian(sigma))


def fourier_prior(shape: tuple[int, ...], std: float = 0.5) -> GaussianPrior:
    return GaussianPrior(power_law_spectrum(shape, 2.0, std))


def vp_eps(prior: Denoiser):
    """Return a denoiser as the VP network (x_vp, t) -> eps that the authors' code calls."""
    bars = vp_alpha_bars()

    def eps(x_vp: Tensor, t: int) -> Tensor:
        sigma = ((1 - bars[t]) / bars[t]) ** 0.5
        x = x_vp / bars[t] ** 0.5
        return (x - prior(x, sigma).x0) / sigma

    return eps


def recorded(method: Method, prior: Denoiser, problem: Problem, noise, shape: tuple[int, ...]):
    """Return the x0 that each step reported, and the result."""
    seen: list[Tensor] = []
    result = method.sample(prior, problem, None, noise, shape, lambda step: seen.append(step.x0.clone()))
    return seen, result


def check_batch_independence(method: Method, problem: Problem, prior: Denoiser) -> None:
    """A sample is the same alone, in a batch, and with a measurement of its own."""
    shape = problem.operator.in_shape

    def run(indices: list[int], y: Tensor) -> Tensor:
        noise = SeededNoise(11, indices)
        seen = Problem(problem.operator, y, problem.likelihood)
        return method.sample(prior, seen, None, noise, (len(indices), *shape)).samples

    y = problem.y
    alone, batch = run([7], y), run([5, 6, 7], y)
    assert alone.dtype == problem.operator.in_dtype
    assert relative(batch[2:], alone) < 1e-4
    assert relative(batch[:1], alone) > 1e-3
    other = torch.cat([0 * y, 2 * y, y])
    assert relative(run([5, 6, 7], other)[2:], alone) < 1e-4


def check_few_looks(method: Method, problem: Problem, prior: Denoiser, monkeypatch, steps: int, once: int) -> None:
    """The loop waits for the device at most every 25 steps; `once` more looks are allowed before it."""
    looks = []
    for name in ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "numpy", "cpu"):
        original = getattr(torch.Tensor, name)

        def spied(self, *args, _original=original, _name=name, **kwargs):
            looks.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spied)
    method.sample(prior, problem, None, SeededNoise(0, [0]), (1, *problem.operator.in_shape))
    assert len(looks) <= steps // 25 + 2 + once, looks


def check_counts(method: Method, problem: Problem, prior: Denoiser, stats: Stats) -> None:
    """The method's own counts are those of the calls that it makes."""
    assert stats.nfe == method.network_calls == len(stats.residuals)
