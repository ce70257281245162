"""How N samples differ from the exact posterior that they should come from, each number with its error.

    mean        sqrt(max(0, mean_i((m_hat - m)^2/s^2) - 1/N))      bias in posterior standard deviations
    std         mean_i(s_hat/s) in each spectral band
    covariance  ||W^T (C_hat - C) W||_F / ||W^T C W||_F, W the directions of largest spread
    wasserstein root mean square over random directions of W_2 between projections, over their exact spread
    coverage    mean_i of the exact probability between the samples' quantiles; calibrated samples give the level
    residual    rms ||y - A x||/(sigma sqrt(m)): 1 for draws of the posterior, averaged over measurements
    data use    <m_hat - m_prior, m - m_prior>/||m - m_prior||^2: 0 where data are ignored, 1 where they are used

m, s, C are exact; m_hat, s_hat, C_hat are of N samples. Errors of mean and std are by the jackknife over blocks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from recon.audit.cases import Case
from recon.audit.exact import Exact
from recon.audit.noise import generator
from recon.data import Problem

BLOCKS = 20
DIRECTIONS = 64
PRINCIPAL = 8
LEVELS = (0.5, 0.9, 0.95)
MEAN_BAR, STD_BAR = 0.02, 0.05


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Floored:
    """A distance, and what as many exact draws give."""

    value: float
    floor: float


@dataclass(frozen=True)
class Statistics:
    """What the audit measures of samples (see the module); std and coverage by the name of their band and level.

    residual: of the samples, and of exact draws, given this very measurement.
    """

    mean: Estimate
    std: dict[str, Estimate]
    covariance: Floored
    wasserstein: Floored
    coverage: dict[str, Estimate]
    residual: Floored
    data_use: float

    @property
    def within(self) -> bool:
        """Whether mean and std are within the bars of 2 % and, in every band, 5 %."""
        return self.mean.value <= MEAN_BAR and all(abs(e.value - 1) <= STD_BAR for e in self.std.values())

    def json(self) -> dict[str, Any]:
        """Return the numbers as JSON-able values."""
        return asdict(self)


def measure(rows: Tensor, case: Case, seed: int = 0) -> Statistics:
    """Return the statistics of samples given as real rows (N, D), float64, N >= 2 BLOCKS."""
    exact = case.exact
    g = generator(seed, case.info.name, "reference")
    reference, twin = exact.draw(len(rows), g), exact.draw(len(rows), g)
    spread = case.exact.band_std(case.bands)
    parts = (case.bands.split(rows - exact.mean), case.bands.names)
    return Statistics(
        mean=_mean_bias((rows - exact.mean) / exact.std),
        std={name: _spread(part / s) for part, s, name in zip(parts[0], spread, parts[1], strict=True)},
        covariance=_covariance(rows, exact, reference),
        wasserstein=_wasserstein(rows, reference, twin, exact, g),
        coverage=_coverage(rows, exact),
        residual=Floored(residual(rows, case.problem), residual(reference, case.problem)),
        data_use=_data_use(rows, case),
    )


def residual(rows: Tensor, problem: Problem) -> float:
    """Return the root mean square over samples of the residual over its expected norm."""
    operator, likelihood = problem.operator, problem.likelihood
    is_complex = operator.in_dtype.is_complex
    parts = []
    for block in rows.split(512):
        if is_complex:
            images = torch.view_as_complex(block.reshape(len(block), *operator.in_shape, 2).contiguous())
        else:
            images = block.reshape(len(block), *operator.in_shape)
        z = operator.forward(images.to(operator.in_dtype))
        parts.append(likelihood.residual(z, problem.y, operator.measured()))
    return float(torch.cat(parts).double().square().mean().sqrt())


def _blocks(standard: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return count (G, 1), sum and sum of squares (G, D) of all samples but those of each of G blocks."""
    blocks = torch.tensor_split(standard, BLOCKS)
    count = torch.tensor([[float(len(b))] for b in blocks], dtype=standard.dtype)
    total, square = torch.stack([b.sum(0) for b in blocks]), torch.stack([(b**2).sum(0) for b in blocks])
    return tuple(v.sum(0) - v for v in (count, total, square))  # type: ignore[return-value]


def _jackknife(left_out: Tensor) -> float:
    """Return the standard error from the values (G,) without each block."""
    groups = len(left_out)
    return float(((groups - 1) / groups * ((left_out - left_out.mean()) ** 2).sum()).sqrt())


def _mean_bias(standard: Tensor) -> Estimate:
    """Return the bias from deviations (N, D) in exact standard deviations; its error is that above the value."""
    count, total, _ = _blocks(standard)
    squared = float((standard.mean(0) ** 2).mean()) - 1 / len(standard)
    error = _jackknife(((total / count) ** 2).mean(1) - 1 / count[:, 0])
    value = max(0.0, squared) ** 0.5
    return Estimate(value, (max(0.0, squared) + error) ** 0.5 - value)


def _spread(standard: Tensor) -> Estimate:
    """Return mean_i(s_hat/s) from deviations (N, D) over the exact standard deviations."""
    count, total, square = _blocks(standard)
    left_out = ((square - total**2 / count) / (count - 1)).clamp_min(0).sqrt().mean(1)
    return Estimate(float(standard.std(0).mean()), _jackknife(left_out))


def _covariance(rows: Tensor, exact: Exact, reference: Tensor) -> Floored:
    """Return the relative error of the covariance along the directions in which exact draws spread most."""
    centred = reference - reference.mean(0)
    basis = torch.linalg.svd(centred[: 2 * PRINCIPAL * BLOCKS], full_matrices=False)[2][:PRINCIPAL].T
    truth = exact.covariance(basis)
    seen = torch.cov((rows @ basis).T).reshape(truth.shape)
    size = truth.norm()
    # the expected square error of N Gaussian samples
    floor = ((1 + (truth.trace() / size) ** 2) / (len(rows) - 1)).sqrt()
    return Floored(float((seen - truth).norm() / size), float(floor))


def _wasserstein(rows: Tensor, reference: Tensor, twin: Tensor, exact: Exact, g: torch.Generator) -> Floored:
    """Return the sliced 2-Wasserstein distance to exact draws, in exact standard deviations."""
    slices = torch.randn(rows.shape[1], DIRECTIONS, generator=g, dtype=rows.dtype)
    slices = slices / slices.norm(dim=0) / exact.std[:, None]
    spread = exact.covariance(slices).diagonal()
    target, seen, again = ((v - exact.mean) @ slices for v in (reference, rows, twin))
    target = target.sort(0).values

    def distance(v: Tensor) -> float:
        return float((((v.sort(0).values - target) ** 2).mean(0) / spread).mean().sqrt())

    return Floored(distance(seen), distance(again))


def _coverage(rows: Tensor, exact: Exact) -> dict[str, Estimate]:
    """Return the exact probability between the samples' central quantiles, and the largest error that N gives it.

    Quantiles are order statistics at p (N + 1), whose expected probability is p for any distribution.
    """
    ordered, count = rows.sort(0).values, len(rows)
    found = {}
    for level in LEVELS:
        low, high = (_order(ordered, p * (count + 1) - 1) for p in ((1 - level) / 2, (1 + level) / 2))
        inside = float((exact.cdf(high) - exact.cdf(low)).mean())
        found[f"{100 * level:g}"] = Estimate(inside, (level * (1 - level) / (count + 2)) ** 0.5)
    return found


def _order(ordered: Tensor, position: float) -> Tensor:
    """Return the order statistics between two positions, by linear interpolation, (D,)."""
    position = min(max(position, 0.0), len(ordered) - 1.0)
    below = min(int(position), len(ordered) - 2)
    return torch.lerp(ordered[below], ordered[below + 1], position - below)


def _data_use(rows: Tensor, case: Case) -> float:
    way = case.exact.mean - case.prior_mean
    return float((rows.mean(0) - case.prior_mean) @ way / (way @ way).clamp_min(1e-30))
