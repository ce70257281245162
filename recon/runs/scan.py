"""A scanner's own k-space made ready, slice by slice: mask, maps, phase and noise are read, else inferred.

    v   real (or complex) image,   y_c = M F S_c e^{i phi} v + sigma n

Every inference is one line for the user, and each has its setting in the section `scan`. The phase phi of the image,
which a prior of real images does not know, is taken from the calibration region and moved into the maps. Slices are
made ready one at a time, so that k-space mapped from disk is never in memory as a whole.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from recon.config.schema import Config, ScanSection
from recon.data import Geometry, Measurement, NoiseSpec, OperatorSpec, Scan
from recon.errors import ConfigError, InputError
from recon.operators.base import LinearOperator
from recon.operators.calibration import (
    calibration_size,
    compressed,
    cropped,
    fourier,
    image_phase,
    inverse_fourier,
    measured_samples,
    noise_level,
    normalised_maps,
)
from recon.operators.coils import likely_cause
from recon.operators.espirit import espirit_maps
from recon.operators.registry import build, draw, parse_params
from recon.runs.scaling import first_reconstruction

# slices that levels and scales are estimated from, evenly spread
PROBES = 9
OFF_GRID = "k-space lies on no Cartesian grid, and the input holds no trajectory"


@dataclass(frozen=True)
class ScanItems:
    """The slices of a scan as problems of their own.

    y: raw k-space (N, coils, Y, X).  kept: points kept along the readout, or None for all.
    laid: a mask to lay over the measured samples, or None.
    """

    y: np.ndarray
    params: dict[str, Any]
    arrays: dict[str, np.ndarray]
    section: ScanSection
    scan: Scan
    region: tuple[int, int]
    maps: str
    phase: bool
    kept: int | None
    laid: np.ndarray | None
    infer_mask: bool

    @property
    def count(self) -> int:
        """Number of slices."""
        return int(self.y.shape[0])

    def item(self, index: int) -> tuple[np.ndarray, OperatorSpec]:
        """Return y (1, coils, Y, X) and the complete operator of one slice."""
        y = self._grid(index)
        size = (int(y.shape[-2]), int(y.shape[-1]))
        given = self.arrays.get("mask")
        mask = measured_samples(y) if self.infer_mask or given is None else _plane(given, size)
        if self.laid is not None:
            mask = mask * _plane(self.laid, size)
        y = y * mask
        arrays: dict[str, np.ndarray] = {"mask": mask.astype(np.uint8)}
        y, found = compressed(y, self.arrays.get("maps"), self.section.coils)
        if found is None and self.maps == "espirit":
            found = espirit_maps(cropped(y, self.region), size, self.section.kernel, self.section.threshold)
        elif found is None and self.maps == "rough":
            found = normalised_maps(y, self.region)
        if self.phase and self.maps != "rough":
            turn = image_phase(y, found, self.region)
            found = turn[None] if found is None else found * turn
        if found is not None:
            arrays["maps"] = np.ascontiguousarray(found, np.complex64)
        params = self.params | {"mask": "given", "coils": None}
        return y[None].astype(np.complex64), OperatorSpec("mri", params, (1, *size), arrays)

    def probes(self) -> list[int]:
        """Return the slices that levels and scales are estimated from."""
        return sorted({int(i) for i in np.linspace(0, self.count - 1, min(self.count, PROBES)).round()})

    def first_images(self) -> torch.Tensor:
        """Return early least-squares images |v| (probes, 1, Y, X)."""
        images = []
        for index in self.probes():
            y, spec = self.item(index)
            operator = build(spec)
            if not isinstance(operator, LinearOperator):
                raise TypeError(f"{operator!r} is not linear")
            images.append(first_reconstruction(operator, torch.from_numpy(y)))
        return torch.cat(images)

    def _grid(self, index: int) -> np.ndarray:
        """Return k-space of one slice without the oversampling of its readout."""
        return shortened(np.asarray(self.y[index]), self.scan.readout, self.kept)


@dataclass(frozen=True)
class PreparedScan:
    """What was made of a scan: its items, noise, the geometry of its images, their centre crop, and notices."""

    items: ScanItems
    noise: NoiseSpec
    geometry: Geometry | None
    crop: tuple[int, int] | None
    notices: list[str]


def prepare_scan(measurement: Measurement, config: Config, operator_file: OperatorSpec | None) -> PreparedScan:
    """Return a scan ready for reconstruction; the operator file's arrays and parameters go before the scan's.

    Raises InputError where k-space has no calibration region that maps or phase could be taken from, is empty, or was
    not measured on a grid; ConfigError for settings that do not fit it.
    """
    scan, section = measurement.scan or Scan(), config.scan
    y, inside = measurement.y, measurement.operator
    if y.ndim != 4 or not y.size:
        raise InputError(f"k-space has shape {tuple(y.shape)}, expected (slices, coils, Y, X)", "see docs/formats.md")
    notices = [*scan.notes]
    params, arrays = _known(inside, operator_file, config)
    kept = _readout_points(scan, section, y, arrays, notices)
    first = shortened(np.asarray(y[0]), scan.readout, kept)
    size = (int(first.shape[-2]), int(first.shape[-1]))
    arrays = {k: _fitted(v, k, size, scan, kept) for k, v in arrays.items()}
    if "maps" in arrays and arrays["maps"].shape != (y.shape[1], *size):
        raise InputError(
            f"maps have shape {arrays['maps'].shape}, k-space needs ({y.shape[1]}, {size[0]}, {size[1]})",
            likely_cause(arrays["maps"].shape, size) + "; scan.oversampling = false keeps the file's grid",
        )
    infer = section.mask == "infer" or "mask" not in arrays
    laid = _laid_mask(config, size) if section.mask == "preset" else None
    probe = ScanItems(y, params, arrays, section, scan, size, "none", False, kept, laid, infer)
    mask = _common_mask(probe, infer, laid is not None, notices)
    region = calibration_size(mask, section.calibration)
    maps, phase = choices(section, y.shape[1], "maps" in arrays, bool(params["complex_image"]), region, notices)
    items = replace(probe, region=region, maps=maps, phase=phase)
    noise = _noise(probe, section, measurement.noise, notices)
    crop = _crop(scan, section, size, notices)
    geometry = _moved(measurement.geometry, scan.crop or (int(y.shape[-2]), int(y.shape[-1])), crop or size)
    return PreparedScan(items, noise, geometry, crop, notices)


def shortened(kspace: np.ndarray, readout: str | None, kept: int | None) -> np.ndarray:
    """Return k-space (coils, Y, X) of the central `kept` pixels along the readout alone."""
    if kept is None:
        return kspace
    axis = -2 if readout == "y" else -1
    images = np.swapaxes(inverse_fourier(kspace, (axis,)), axis, -1)
    return np.asarray(fourier(np.swapaxes(cropped(images, (kept,)), axis, -1), (axis,)), np.complex64)


def _moved(geometry: Geometry | None, shown: tuple[int, int], size: tuple[int, int]) -> Geometry | None:
    """Return the geometry of the central `size` pixels from that of the central `shown` ones."""
    if geometry is None or geometry.affine is None or shown == size:
        return geometry
    affine = geometry.affine.copy()
    for column, (n, m) in enumerate(zip(shown[::-1], size[::-1], strict=True)):
        affine[:3, 3] += affine[:3, column] * (n // 2 - m // 2)
    return replace(geometry, affine=affine)


def _known(
    inside: OperatorSpec | None, operator_file: OperatorSpec | None, config: Config
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the parameters and arrays that are given, those of the operator file first."""
    preset = config.operator.params if config.operator.kind == "mri" else {}
    given = {} if operator_file is None else operator_file.params
    params = {"complex_image": preset.get("complex_image", False)} | ({} if inside is None else inside.params) | given
    params = asdict(parse_params("mri", {k: v for k, v in params.items() if v is not None}))
    arrays = dict({} if inside is None else inside.arrays)
    return params | {"maps": "birdcage"}, arrays | ({} if operator_file is None else operator_file.arrays)


def _readout_points(
    scan: Scan, section: ScanSection, y: np.ndarray, arrays: dict[str, np.ndarray], notices: list[str]
) -> int | None:
    """Return how many points of the readout are kept, None for all."""
    if not section.oversampling or scan.readout is None or scan.oversampling <= 1.01:
        return None
    axis = 0 if scan.readout == "y" else 1
    full = int(y.shape[2 + axis])
    kept = scan.crop[axis] if scan.crop is not None else round(full / scan.oversampling)
    if kept >= full:
        return None
    along = measured_samples(np.asarray(y[y.shape[0] // 2])).any(axis=1 - axis)
    mask = arrays.get("mask")
    if not along.all() or (mask is not None and mask.ndim == 2 and (mask != mask.take([0], axis=axis)).any()):
        notices.append(f"the oversampled readout stays at {full} points: some of them were not measured")
        return None
    notices.append(f"readout oversampling removed: {kept} of {full} points along {scan.readout}")
    return kept


def _fitted(array: np.ndarray, name: str, size: tuple[int, int], scan: Scan, kept: int | None) -> np.ndarray:
    """Return an array on the grid that is reconstructed: masks and maps lose the readout's oversampling as well."""
    if kept is None:
        return array
    axis = -2 if scan.readout == "y" else -1
    if name == "maps" and array.ndim == 3 and array.shape[axis] != kept:
        return np.swapaxes(cropped(np.swapaxes(array, axis, -1), (kept,)), axis, -1)
    if name == "mask" and array.ndim == 2 and array.shape[axis] not in (1, kept):
        return np.repeat(array.take([0], axis=axis), kept, axis=axis)
    return array


def _plane(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a mask (X,), (Y, 1) or (Y, X) as (Y, X)."""
    if mask.ndim > 2 or any(m not in (1, n) for m, n in zip(mask.shape[::-1], size[::-1], strict=False)):
        raise InputError(
            f"mask has shape {mask.shape}, expected ({size[1]},) of columns, ({size[0]}, 1) of rows, or {size}",
            ("rows and columns look transposed: " if mask.shape == size[::-1] else "")
            + "give another with --operator FILE, or infer it: --set scan.mask=infer",
        )
    return np.asarray(np.broadcast_to(mask != 0, size), np.uint8)


def _laid_mask(config: Config, size: tuple[int, int]) -> np.ndarray:
    if config.operator.kind != "mri":
        raise ConfigError("scan.mask = 'preset' needs a preset of operator 'mri'", "leave scan.mask at 'auto'")
    params = {k: v for k, v in config.operator.params.items() if k not in ("coils", "maps")}
    spec = draw("mri", params, (1, *size), config.run.seed)
    mask = spec.arrays["mask"]
    return mask[:, None] if mask.ndim == 1 and spec.params["axis"] == "y" else mask


def _common_mask(probe: ScanItems, inferred: bool, laid: bool, notices: list[str]) -> np.ndarray:
    """Return the samples that every probed slice measures, and say what was found."""
    masks = [probe.item(index)[1].arrays["mask"] for index in probe.probes()]
    common = np.minimum.reduce(masks)
    share = float(np.mean([m.mean() for m in masks]))
    if not share > 0:
        raise InputError("k-space is zero everywhere: nothing was measured", "check the file")
    columns, rows = common.all(axis=0), common.all(axis=1)
    what = f"{share:.1%} of the samples"
    if share == 1:
        what = "all samples: k-space is fully measured"
    elif common.any(axis=0).sum() == columns.sum():
        what = f"{int(columns.sum())} of {columns.size} columns"
    elif common.any(axis=1).sum() == rows.sum():
        what = f"{int(rows.sum())} of {rows.size} rows"
    source = "inferred from the samples that are not zero" if inferred else "read from the file"
    notices.append(f"mask: {what}, {source}{', under the mask of the preset' if laid else ''} (scan.mask)")
    if any((m != common).any() for m in masks):
        notices.append("mask: it differs from slice to slice")
    return common


def choices(
    section: ScanSection, coils: int, given: bool, complex_image: bool, region: tuple[int, int], notices: list[str]
) -> tuple[str, bool]:
    """Return how maps are made ("espirit", "rough", "none") and whether the phase is moved into them."""
    phase = section.phase == "absorb" or (section.phase == "auto" and not complex_image)
    wanted = section.maps
    if given and wanted == "auto":
        maps = "none"
        notices.append("coil maps: those given (scan.maps)")
    elif wanted == "none" or (wanted == "auto" and coils == 1):
        maps = "none"
        if coils > 1:
            raise ConfigError(f"scan.maps = 'none', but k-space has {coils} coils", "give maps with --operator FILE")
    else:
        maps = "rough" if wanted == "rough" or min(region) < section.kernel + 2 else "espirit"
    if (maps != "none" or phase) and min(region) < 2:
        raise InputError(
            f"the centre of k-space is not measured ({region[0]}x{region[1]} samples): no maps and no phase from it",
            "give maps with --operator FILE and set scan.phase=none",
        )
    if section.coils is not None and section.coils < coils:
        notices.append(f"coils: {coils} compressed to {section.coils} virtual ones (scan.coils)")
        coils = section.coils
    size = f"{region[0]}x{region[1]} samples at the centre"
    if maps == "espirit":
        notices.append(f"coil maps: estimated for {coils} coils by ESPIRiT from {size} (scan.maps)")
    elif maps == "rough":
        notices.append(f"coil maps: low-resolution images of {coils} coils from {size}, with its phase (scan.maps)")
    if phase and maps != "rough":
        notices.append(f"phase of the image: taken from {size}, moved into the maps (scan.phase)")
    elif not phase and not complex_image:
        notices.append("phase of the image: taken to be zero (scan.phase)")
    return maps, phase


def _noise(probe: ScanItems, section: ScanSection, known: NoiseSpec | None, notices: list[str]) -> NoiseSpec:
    if section.sigma is not None:
        return NoiseSpec("gaussian", section.sigma)
    if known is not None:
        notices.append(f"noise: sigma {known.sigma:.4g} of each part, from the file's noise scan (scan.sigma)")
        return known
    levels = []
    for index in probe.probes():
        y, spec = probe.item(index)
        level = noise_level(y[0], spec.arrays["mask"])
        if level is not None:
            levels.append(level)
    if not levels:
        raise InputError(
            "too few samples are measured to estimate the noise", "give it: --set scan.sigma=VALUE, in k-space's units"
        )
    sigma = float(np.median(levels))
    notices.append(f"noise: sigma {sigma:.4g} of each part, from the outer corners of k-space (scan.sigma)")
    return NoiseSpec("gaussian", sigma)


def _crop(scan: Scan, section: ScanSection, size: tuple[int, int], notices: list[str]) -> tuple[int, int] | None:
    if scan.crop is None or not section.crop:
        return None
    crop = (min(scan.crop[0], size[0]), min(scan.crop[1], size[1]))
    if crop == size:
        return None
    notices.append(f"image: the central {crop[0]}x{crop[1]} of {size[0]}x{size[1]} pixels, as scanned (scan.crop)")
    return crop
