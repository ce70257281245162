"""A factor for the spread of samples, fitted on simulated measurements of known images.

    factor = quantile_level(|t - mean|/(s sqrt(1 + 1/N))) / T_{N-1}((1 + level)/2)

so that the intervals mean +- factor s sqrt(1 + 1/N) T_{N-1} hold the stated share of the truth's values on the images
of the fit. Coverage before and after is measured on other images. Only the foreground counts: values above 2 % of the
image's largest magnitude.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from recon import __version__
from recon.config.schema import Config
from recon.data import Volume, take_item, to_stack
from recon.errors import ConfigError, InputError
from recon.metrics.uncertainty import coverage, mean_and_std, spread_ratio
from recon.runs.execute import Progress, execute
from recon.runs.plan import make_plan
from recon.runs.simulate import simulate

LEVEL = 0.9
LEVELS = (0.5, 0.9, 0.95)
FOREGROUND = 0.02


@dataclass(frozen=True)
class Calibration:
    """The factor, what it was fitted for, and coverage of held-out images by level, before and after.

    spread_ratio_before: spread of the samples over their error on held-out images; 1 if calibrated.
    """

    factor: float
    level: float
    preset: str
    method: str
    prior: str
    operator: str
    samples: int
    fitted: int
    held_out: int
    before: dict[str, float]
    after: dict[str, float]
    spread_ratio_before: float
    spread_ratio_after: float
    recon: str = __version__

    def encode(self) -> bytes:
        """Return the calibration as the bytes of a JSON file."""
        return (json.dumps(asdict(self), indent=2, allow_nan=False) + "\n").encode()

    def conflicts(self, config: Config) -> list[str]:
        """Return what differs between the configuration of a run and that of the fit."""
        now = {"method": config.method.name, "prior": config.prior.name, "operator": config.operator.kind}
        pairs = [(name, getattr(self, name), value) for name, value in now.items()]
        return [
            f"the calibration is for {name} '{then}', not '{value}'" for name, then, value in pairs if then != value
        ]


@dataclass(frozen=True)
class _Tried:
    """Samples (N, C, Y, X, 1 or 2) of a simulated measurement, its truth, and where it counts; parts come last."""

    samples: np.ndarray
    truth: np.ndarray
    mask: np.ndarray


def split_images(truths: Sequence[Volume], most: int | None = None) -> list[Volume]:
    """Return every slice or item of the volumes as a volume of its own; at most `most`, evenly spaced.

    Raises InputError for fewer than two: one to fit, one to hold out.
    """
    images = []
    for volume in truths:
        count = to_stack(volume).shape[0]
        images += [take_item(volume, i) for i in range(count)] if count > 1 else [volume]
    if most is not None and most < len(images):
        images = [images[round(i)] for i in np.linspace(0, len(images) - 1, max(most, 2))]
    if len(images) < 2:
        raise InputError(f"a calibration needs two or more images, got {len(images)}", "give more with --truth FILE")
    return images


def calibrate(
    config: Config, preset: str, images: Sequence[Volume], on_progress: Callable[[Progress], None] | None = None
) -> Calibration:
    """Return the calibration of a configuration: every other image is fitted, the rest held out.

    Raises ConfigError for fewer than two samples a measurement or a method without randomness, and as `execute`.
    """
    count = config.run.samples
    if count < 2:
        raise ConfigError(f"a spread needs two or more samples, got {count}", "use --samples 8 or more")
    tried = []
    for number, image in enumerate(images):

        def report(reached: Progress, number: int = number) -> None:
            if on_progress is not None:
                on_progress(Progress(number * reached.total + reached.done, len(images) * reached.total, reached.sigma))

        tried.append(_try(_with_seed(config, config.run.seed + number), image, report))
    fit, held = tried[0::2], tried[1::2]
    factor = fitted_factor(fit, count)
    return Calibration(
        factor=factor,
        level=LEVEL,
        preset=preset,
        method=config.method.name,
        prior=config.prior.name,
        operator=config.operator.kind,
        samples=count,
        fitted=len(fit),
        held_out=len(held),
        before=_coverages(held, 1.0),
        after=_coverages(held, factor),
        spread_ratio_before=_ratio(held, 1.0),
        spread_ratio_after=_ratio(held, factor),
    )


def read_calibration(path: Path) -> Calibration:
    """Return the calibration that a file holds. Raises InputError where it holds none."""
    try:
        found = Calibration(**json.loads(path.read_bytes()))
        if not 0 < float(found.factor) < math.inf:
            raise ValueError("its factor is not positive")
    except OSError as err:
        raise InputError(f"cannot read calibration {path}: {err.strerror}") from err
    except (ValueError, TypeError) as err:
        raise InputError(f"{path.name} is no calibration", "write one with: recon audit --calibrate PRESET") from err
    return found


def fitted_factor(tried: Sequence[_Tried], count: int) -> float:
    """Return the factor of the module's formula, pooled over images of `count` samples each.

    Raises ConfigError where samples do not differ.
    """
    errors = []
    for one in tried:
        mean, std = mean_and_std(one.samples)
        # equal samples differ by rounding
        kept = one.mask & (std > 1e-6 * np.abs(one.truth).max())
        errors.append(np.abs(mean - one.truth)[kept] / std[kept])
    pooled = np.concatenate(errors)
    if not pooled.size or not (quantile := float(np.quantile(pooled, LEVEL))) > 0:
        raise ConfigError("the samples do not differ, so there is no spread to calibrate", "use a stochastic method")
    return quantile / (math.sqrt(1 + 1 / count) * float(student.ppf((1 + LEVEL) / 2, count - 1)))


def _try(config: Config, image: Volume, report: Callable[[Progress], None]) -> _Tried:
    measurement = simulate(image, config)
    outcome = execute(make_plan(config, measurement), report)
    if outcome.samples.shape[0] < 2:
        raise ConfigError(f"method '{config.method.name}' is deterministic: its samples have no spread")
    truth, samples = to_stack(image)[0], outcome.samples[:, 0]
    magnitude = np.abs(truth)
    mask = np.broadcast_to((magnitude > FOREGROUND * magnitude.max())[..., None], (*truth.shape, 2))
    if not np.iscomplexobj(truth):
        return _Tried(samples[..., None], truth[..., None], mask[..., :1])
    return _Tried(np.stack([samples.real, samples.imag], -1), np.stack([truth.real, truth.imag], -1), mask)


def _with_seed(config: Config, seed: int) -> Config:
    return config.model_copy(update={"run": config.run.model_copy(update={"seed": seed})})


def _stretched(one: _Tried, factor: float) -> np.ndarray:
    mean = one.samples.mean(axis=0)
    return mean + factor * (one.samples - mean)


def _coverages(tried: Sequence[_Tried], factor: float) -> dict[str, float]:
    found = {}
    for level in LEVELS:
        shares = [coverage(_stretched(one, factor), one.truth, level, one.mask) for one in tried]
        found[f"{100 * level:g}"] = round(float(np.average(shares, weights=[one.mask.sum() for one in tried])), 5)
    return found


def _ratio(tried: Sequence[_Tried], factor: float) -> float:
    ratios = [spread_ratio(_stretched(one, factor), one.truth, one.mask) for one in tried]
    return round(float(np.mean(ratios)), 5)
