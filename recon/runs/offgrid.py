"""A scanner's k-space along a trajectory made ready: coil maps, phase and noise are read, else inferred.

    v   real (or complex) image,   y_c = F S_c e^{i phi} v + sigma n,     F as in `recon.operators.mri_nufft`

The centre of k-space is solved for on a small grid of its own, from the samples that lie in it; from there everything
is as for Cartesian scans (`recon.runs.scan`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from recon.config.schema import Config, ScanSection
from recon.data import Measurement, NoiseSpec, OperatorSpec
from recon.errors import ConfigError, InputError
from recon.operators.base import LinearOperator
from recon.operators.calibration import compressed, fourier, image_phase, normalised_maps
from recon.operators.coils import likely_cause
from recon.operators.espirit import espirit_maps
from recon.operators.mri_nufft import NonCartesianMRI
from recon.operators.nufft import Gridding
from recon.operators.registry import build, parse_params
from recon.operators.trajectories import checked_trajectory, pipe_density
from recon.runs.scaling import first_reconstruction
from recon.runs.scan import choices
from recon.solvers.cg import conjugate_gradients

KIND = "mri-nufft"
LEAST = 4  # cells a side
FILLED = 0.9  # of the cells of a region's disc that hold a sample
OUTER = 0.1  # of the samples, those of highest frequency, that noise is read from
ITERATIONS = 20


@dataclass(frozen=True)
class OffGridItems:
    """The slices of a scan along a trajectory as problems of their own.

    y: (N, coils, *layout).  path: (*layout, 2).  region: of the centre that maps and phase are taken from.
    """

    y: np.ndarray
    path: np.ndarray
    size: tuple[int, int]
    params: dict[str, Any]
    given_maps: np.ndarray | None
    section: ScanSection
    region: tuple[int, int]
    maps: str
    phase: bool

    @property
    def count(self) -> int:
        """Number of slices."""
        return int(self.y.shape[0])

    def item(self, index: int) -> tuple[np.ndarray, OperatorSpec]:
        """Return y (1, coils, *layout) and the complete operator of one slice."""
        y, found = compressed(np.asarray(self.y[index], np.complex64), self.given_maps, self.section.coils)
        if self.maps != "none" or self.phase:
            centre = central_kspace(y, self.path, self.size, self.region)
            if self.maps == "espirit":
                found = espirit_maps(centre, self.size, self.section.kernel, self.section.threshold)
            framed = _framed(centre, self.size)
            if self.maps == "rough":
                found = normalised_maps(framed, self.region)
            elif self.phase:
                turn = image_phase(framed, found, self.region)
                found = turn[None] if found is None else found * turn
        arrays = {"trajectory": self.path}
        if found is not None:
            arrays["maps"] = np.ascontiguousarray(found, np.complex64)
        return y[None], OperatorSpec(KIND, self.params, (1, *self.size), arrays)

    def first_images(self) -> torch.Tensor:
        """Return the early least-squares image |v| of the middle slice, (1, 1, Y, X)."""
        y, spec = self.item(self.count // 2)
        operator = build(spec)
        if not isinstance(operator, LinearOperator):
            raise TypeError(f"{operator!r} is not linear")
        return first_reconstruction(operator, torch.from_numpy(y))


def prepare_off_grid(
    measurement: Measurement, config: Config, operator_file: OperatorSpec | None
) -> tuple[OffGridItems, NoiseSpec, list[str]]:
    """Return the slices, the noise, and what was inferred, a line each.

    The operator file's arrays and parameters go before the scan's. Raises InputError where shapes do not fit each other
    or nothing was measured; ConfigError for settings that do not fit.
    """
    scan, section, inside = measurement.scan, config.scan, measurement.operator
    notices = [*scan.notes] if scan is not None else []
    if section.mask != "auto":
        raise ConfigError(f"scan.mask = '{section.mask}' is for Cartesian scans", "leave scan.mask at 'auto'")
    known = [spec for spec in (inside, operator_file) if spec is not None]
    params, arrays = _params(config, known), {k: v for spec in known for k, v in spec.arrays.items()}
    shapes = [tuple(spec.in_shape) for spec in known if spec.in_shape]
    if "trajectory" not in arrays or not shapes:
        raise InputError("k-space off the grid came without its trajectory or the image's size", "see docs/formats.md")
    if len(shapes[-1]) != 3:
        raise InputError(
            f"the trajectory is of a volume {shapes[-1][1:]}, and runs go slice by slice",
            "transform the samples along z first, or give .npy with --operator FILE (in_shape, trajectory, maps)",
        )
    size = (shapes[-1][1], shapes[-1][2])
    y, path = measurement.y, checked_trajectory(arrays["trajectory"], size)
    if y.shape[2:] != path.shape[:-1] or y.ndim < 3 or not y.size:
        raise InputError(f"k-space has shape {tuple(y.shape)}, its trajectory gives (slices, coils, {path.shape[:-1]})")
    given = arrays.get("maps")
    if given is not None and given.shape != (y.shape[1], *size):
        raise InputError(
            f"maps have shape {given.shape}, k-space needs ({y.shape[1]}, {size[0]}, {size[1]})",
            likely_cause(given.shape, size),
        )
    if not np.any(y):
        raise InputError("k-space is zero everywhere: nothing was measured", "check the file")
    notices.append(f"trajectory: {'x'.join(map(str, path.shape[:-1]))} samples, from the file")
    region = central_region(path, size, section.calibration)
    maps, phase = choices(section, y.shape[1], given is not None, bool(params["complex_image"]), region, notices)
    items = OffGridItems(y, path, size, params, given, section, region, maps, phase)
    return items, _noise(items, measurement.noise, notices), notices


def central_region(path: np.ndarray, size: tuple[int, int], most: int) -> tuple[int, int]:
    """Return (r, r), r <= most, of the largest central disc in which nearly every cell of the grid holds a sample."""
    cells = np.unique(np.rint(path.reshape(-1, 2) * size[::-1]).astype(int), axis=0)
    held = np.sort(np.hypot(*cells.T))
    for side in range(min(most, *size), LEAST - 1, -1):
        radius = side / 2
        reach = np.arange(-side, side + 1)
        disc = int((np.hypot(reach[:, None], reach) < radius).sum())
        if np.searchsorted(held, radius) >= FILLED * disc:
            return side, side
    return 0, 0


def central_kspace(y: np.ndarray, path: np.ndarray, size: tuple[int, int], region: tuple[int, int]) -> np.ndarray:
    """Return the centre of Cartesian k-space (coils, *region), by least squares from the samples that lie in it."""
    finer = np.array(size[::-1]) / np.array(region[::-1])
    places = path.reshape(-1, 2) * finer
    inside = np.abs(places).max(1) <= 0.5
    places = places[inside]
    operator = NonCartesianMRI(
        Gridding(places, region),
        region,
        (len(places),),
        torch.from_numpy(pipe_density(places, region)),
        complex_image=True,
    )
    samples = torch.from_numpy(y.reshape(len(y), -1)[:, inside])[:, None]
    start = operator.pinv(samples)
    found = conjugate_gradients(operator.normal, operator.adjoint(samples), start, ITERATIONS).x
    return np.asarray(fourier(found[:, 0].numpy()), np.complex64)


def _framed(centre: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the centre of k-space on the grid of the image, zero around it."""
    whole = np.zeros((len(centre), *size), np.complex64)
    first = [n // 2 - m // 2 for n, m in zip(size, centre.shape[1:], strict=True)]
    whole[:, first[0] : first[0] + centre.shape[1], first[1] : first[1] + centre.shape[2]] = centre
    return whole


def _params(config: Config, known: list[OperatorSpec]) -> dict[str, Any]:
    """Return the operator's parameters: those of the specifications before those of the preset."""
    preset = config.operator.params
    kept = preset if config.operator.kind == KIND else {}
    kept = {k: v for k, v in kept.items() if k not in ("trajectory", "shots", "samples", "coils", "maps")}
    kept = {"toeplitz": True, "complex_image": preset.get("complex_image", False), **kept}
    for spec in known:
        kept |= {k: v for k, v in spec.params.items() if v is not None}
    return asdict(replace(parse_params(KIND, kept), trajectory="given", maps="birdcage", coils=None))


def _noise(items: OffGridItems, known: NoiseSpec | None, notices: list[str]) -> NoiseSpec:
    if items.section.sigma is not None:
        return NoiseSpec("gaussian", items.section.sigma)
    if known is not None:
        notices.append(f"noise: sigma {known.sigma:.4g} of each part, from the file's noise scan (scan.sigma)")
        return known
    radius = np.linalg.norm(items.path, axis=-1).ravel()
    outer = radius >= np.quantile(radius, 1 - OUTER)
    y = np.asarray(items.y[items.count // 2]).reshape(items.y.shape[1], -1)[:, outer]
    levels = np.median(np.abs(y), axis=1) / math.sqrt(2 * math.log(2))
    sigma = float(np.sqrt(np.mean(levels.astype(np.float64) ** 2)))
    notices.append(f"noise: sigma {sigma:.4g} of each part, an upper bound from the highest frequencies (scan.sigma)")
    return NoiseSpec("gaussian", sigma)
