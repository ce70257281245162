"""The audit's cases: a prior, a problem drawn from it, and its exact posterior.

Truth and measurement of a case are always the same; the seed of an audit changes the samples alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from recon.audit.bands import Bands, shells
from recon.audit.catalog import CaseInfo, case_info
from recon.audit.exact import Exact, GaussianExact
from recon.audit.gaussian import dense_posterior
from recon.audit.mixtures import MixtureExact
from recon.audit.noise import generator
from recon.audit.operators import Amplitude, Clipped
from recon.audit.scalar import scalar_posterior
from recon.audit.stationary import circulant_posterior
from recon.data import Problem
from recon.likelihoods import Gaussian, Likelihood, Poisson
from recon.operators.base import LinearOperator, Operator
from recon.operators.denoise import Identity
from recon.operators.matrix import DenseMatrix
from recon.operators.registry import build, draw
from recon.priors.base import Denoiser
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.priors.mixture import MixturePrior
from recon.solvers.dense import real_rows
from recon.solvers.power import operator_norm

CASE_SEED = 0
EXPONENT, SPREAD = 2.0, 0.25  # of the prior's power law, and of its pixels: 4 spreads fill the value range [-1, 1]

# kind -> operator family, parameters, and noise in the prior's units, as in the presets of the same problem
IMAGE_OPERATORS: dict[str, tuple[str, dict[str, object], float]] = {
    "gaussian-denoise": ("denoise", {}, 0.2),
    "gaussian-inpaint": ("inpaint", {"mask": "random", "missing": 0.7}, 0.05),
    "gaussian-deblur": ("blur", {"size": 7, "sigma": 1.0, "boundary": "circular"}, 0.05),
    "gaussian-deblur-reflect": ("blur", {"size": 7, "sigma": 1.0, "boundary": "reflect"}, 0.05),
    "gaussian-sr4": ("downsample", {"factor": 4}, 0.05),
    "gaussian-fourier": ("mri", {"acceleration": 4.0}, 0.01),
    "gaussian-fourier-complex": ("mri", {"acceleration": 4.0, "complex_image": True}, 0.01),
    "gaussian-ct": ("ct", {"angles": 12}, 0.02),
}


@dataclass(frozen=True)
class Case:
    """A case: `problem` in the prior's units, the exact posterior, its bands, and the prior's mean as a row (D,)."""

    info: CaseInfo
    prior: Denoiser
    problem: Problem
    exact: Exact
    bands: Bands
    prior_mean: Tensor

    @property
    def linear_gaussian(self) -> bool:
        """Whether the posterior is Gaussian: a Gaussian prior, a linear operator, Gaussian noise."""
        return self.info.family == "gaussian" or self.info.name == "scalar-linear"


@lru_cache(maxsize=4)
def build_case(name: str) -> Case:
    """Return a case by name; the last four are kept. Raises ConfigError on an unknown name."""
    info = case_info(name)
    maker = {"gaussian": _image_case, "mixture": _mixture_case, "scalar": _scalar_case}[info.family]
    return maker(info)


def _image_case(info: CaseInfo) -> Case:
    kind, params, sigma = IMAGE_OPERATORS[info.kind]
    shape = (1, info.size, info.size)
    operator = build(draw(kind, params, shape, CASE_SEED))
    assert isinstance(operator, LinearOperator)
    if kind == "ct":
        operator = operator * (1 / operator_norm(operator))
    prior = GaussianPrior(power_law_spectrum(shape, EXPONENT, SPREAD))
    truth = prior.sample(1, generator(CASE_SEED, info.name, "truth"), operator.in_dtype)
    problem = _measured(info, operator, truth, Gaussian(sigma))
    is_complex = operator.in_dtype.is_complex
    exact = circulant_posterior(prior, operator, problem.y, sigma)
    if exact is None:
        found = dense_posterior(operator, dense_covariance(prior.spectrum), prior.mean, problem.y, sigma)
        exact = GaussianExact(found.mean, found.covariance)
    return Case(info, prior, problem, exact, shells(shape[1:], is_complex), torch.zeros_like(exact.mean))


def _mixture_case(info: CaseInfo) -> Case:
    """Components that the measurement tells apart only in pairs: it does not see the difference within a pair."""
    size, g = info.size, generator(CASE_SEED, info.name)
    pairs, measured = max(1, size // 8) + 1, max(1, size // 4)
    centre = 0.3 * torch.randn(pairs, size, generator=g, dtype=torch.float64)
    apart = torch.randn(size, generator=g, dtype=torch.float64)
    apart = apart / apart.norm()
    means = torch.cat([centre - 0.45 * apart, centre + 0.45 * apart])
    mixing = 0.12 * torch.randn(len(means), size, size, generator=g, dtype=torch.float64) / size**0.5
    covariances = mixing @ mixing.mT + 0.08**2 * torch.eye(size, dtype=torch.float64)
    weights = 0.5 + torch.rand(len(means), generator=g, dtype=torch.float64)
    prior = MixturePrior(weights, means.reshape(-1, 1, 1, size), covariances)
    rows = torch.randn(measured, size, generator=g, dtype=torch.float64)
    rows = torch.linalg.qr((rows - torch.outer(rows @ apart, apart)).T)[0].T
    operator = DenseMatrix((1, 1, size), (measured,), rows, complex_image=False)
    truth = prior.sample(1, generator(CASE_SEED, info.name, "truth"))
    problem = _measured(info, operator, truth, Gaussian(0.1))
    exact = MixtureExact(prior.posterior(operator, problem.y, 0.1))
    return Case(info, prior, problem, exact, Bands(), prior.weights @ means)


def _scalar_case(info: CaseInfo) -> Case:
    shape = (1, 1, 1)
    one = torch.ones(1, *shape)
    # kind -> weights, means and standard deviations of the prior's components, operator, measurement, likelihood
    cases: dict[str, tuple[list[float], list[float], list[float], Operator, float, Likelihood]] = {
        "scalar-linear": ([1.0], [0.5], [0.15], Identity(shape), 0.7, Gaussian(0.1)),
        "scalar-amplitude": ([1.0], [0.1], [0.4], Amplitude(shape), 0.5, Gaussian(0.1)),
        "scalar-clip": ([0.6, 0.4], [0.1, 0.8], [0.3, 0.1], Clipped(shape, -0.5, 0.5), 0.48, Gaussian(0.1)),
        "scalar-poisson": ([1.0], [0.0], [0.35], Identity(shape), 0.6, Poisson(20.0, 0.5, 0.5 * one)),
    }
    weights, means, stds, operator, y, likelihood = cases[info.name]
    centres = torch.tensor(means, dtype=torch.float64)
    variances = torch.tensor(stds, dtype=torch.float64) ** 2
    prior = MixturePrior(torch.tensor(weights), centres.reshape(-1, *shape), variances.reshape(-1, *shape))
    problem = Problem(operator, y * one, likelihood)
    return Case(info, prior, problem, scalar_posterior(prior, problem), Bands(), prior.weights @ centres[:, None])


def _measured(info: CaseInfo, operator: LinearOperator, truth: Tensor, likelihood: Gaussian) -> Problem:
    """Return the problem of a measurement of `truth` (1, *in_shape); unmeasured entries are zero."""
    z = operator.forward(truth)
    g = generator(CASE_SEED, info.name, "noise")
    white = torch.randn(*z.shape, *((2,) if z.is_complex() else ()), generator=g, dtype=z.real.dtype)
    n = torch.view_as_complex(white) if z.is_complex() else white
    kept = 1 if operator.support is None else operator.support
    return Problem(operator, z + likelihood.sigma * kept * n, likelihood)


def dense_covariance(spectrum: Tensor) -> Tensor:
    """Return F^H diag(S) F as a real matrix (D, D) for a spectrum S (1, Y, X) of real images."""
    row = torch.fft.ifft2(spectrum[0].to(torch.complex128)).real
    rows, columns = (torch.arange(n) for n in row.shape)
    dy = (rows[:, None] - rows) % len(rows)
    dx = (columns[:, None] - columns) % len(columns)
    return row[dy[:, None, :, None], dx[None, :, None, :]].reshape(row.numel(), row.numel())


def prior_rows(case: Case, count: int, seed: int) -> Tensor:
    """Return draws of the prior as rows (count, D), what a method would return that ignores its data."""
    prior, kind = case.prior, case.problem.operator.in_dtype
    assert isinstance(prior, GaussianPrior | MixturePrior)
    return real_rows(prior.sample(count, generator(seed, case.info.name, "prior"), kind))
