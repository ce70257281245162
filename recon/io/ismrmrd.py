"""ISMRMRD HDF5 files: acquisitions sorted into k-space of slices, and images.

    GROUP/xml (header), GROUP/data (head, traj, data) an acquisition each;  GROUP/IMAGE/header and data (n, c, z, y, x)

Noise acquisitions give the covariance of the coils, Psi = N N^H / (samples - 1); k-space is whitened by
W = s L^-1, Psi = 2 L L^H, where s, the geometric mean of the coils' noise, keeps the units of the file: afterwards the
noise has standard deviation s in each real and imaginary part of every coil. Navigators and phase-correction lines are
left out, averages are averaged, reversed readouts turned, partial echoes placed by their centre.
Source: Inati et al., Magn. Reson. Med. 77(1), 2017, and the ISMRMRD data format, version 1.15.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from recon.data import Geometry, Measurement, NoiseSpec, OperatorSpec, Scan, Volume
from recon.errors import InputError
from recon.io.axes import grey_slices
from recon.io.hdf5 import Hdf5File, open_hdf5
from recon.io.ismrmrd_images import read_images, write_images
from recon.io.kspace import Whitening, placement, readout_to_slices, whitening
from recon.io.mrd_header import Header, parse_header
from recon.io.source import MAX_BYTES, Source, reading

# bits of an acquisition's flags, from 1
NOISE, CALIBRATION, REVERSE = 19, 20, 22
LEFT_OUT = {23: "navigator", 24: "phase-correction", 26: "feedback", 27: "dummy", 28: "feedback", 29: "surface-coil"}
LEFT_OUT |= {30: "phase-stabilisation", 31: "phase-stabilisation"}
# counters that must not vary: one image a slice
SINGLE = ("contrast", "phase", "repetition", "set")
# acquisitions that are read at once
BATCH = 512


@dataclass(frozen=True)
class _Lines:
    """The acquisitions that are used: their numbers in the file, and heads."""

    file: Hdf5File
    key: str
    heads: np.ndarray
    chosen: np.ndarray

    def samples(self, numbers: np.ndarray) -> Any:
        """Yield (number, samples (coils, n), trajectory) of each acquisition."""
        for start in range(0, len(numbers), BATCH):
            part = numbers[start : start + BATCH]
            records = self.file.part(self.key, slice(int(part.min()), int(part.max()) + 1))
            for number in part:
                record = records[number - part.min()]
                head = self.heads[number]
                coils, count = int(head["active_channels"]), int(head["number_of_samples"])
                values = np.asarray(record["data"], np.float32)
                if values.size != 2 * coils * count:
                    raise InputError(
                        f"{self.file.name}: acquisition {number} has {values.size} numbers, not {2 * coils * count}",
                        "get the file again",
                    )
                yield int(number), values.view(np.complex64).reshape(coils, count), record["traj"]


def read(source: Source, axes: tuple[str, ...] | None = None) -> Volume:
    """Return the image series of a file, or the one named with `::`. Raises InputError where there is no single one."""
    with open_hdf5(source) as file:
        return read_images(file, source.inner, axes)


def write(stream: BinaryIO, volume: Volume) -> dict[str, Any]:
    """Write the image as one image series, `dataset/image_0`, magnitude or complex, with its place in space."""
    return write_images(stream, volume)


def check(volume: Volume) -> None:
    """Raise InputError where an ISMRMRD file cannot hold such an image."""
    grey_slices(volume, "an ISMRMRD image", complex_values=True)


def read_measurement(source: Source) -> Measurement | None:
    """Return k-space (slices, coils, Y, X), whitened where there is a noise scan; None where a file holds images alone.

    `FILE::repetition=1,contrast=0` chooses where counters vary, `FILE::GROUP` a group.
    """
    with open_hdf5(source) as file:
        wanted, named = _choice(source.inner)
        groups = [key.removesuffix("data") for key in file.keys() if key.endswith("data") and _has_heads(file, key)]
        if named is not None:
            groups = [g for g in groups if g.rstrip("/") == named]
        if not groups:
            return None
        if len(groups) > 1:
            listed = ", ".join(g.rstrip("/") for g in groups)
            raise InputError(f"{source.name}: {len(groups)} scans in it: {listed}", f"name one: {source.name}::GROUP")
        group = groups[0]
        with reading(source.name, "ISMRMRD file"):
            header = parse_header(file.text(f"{group}xml"), source.name)
            lines = _lines(file, f"{group}data", wanted)
            if header.trajectory != "cartesian":
                return _off_grid(lines, header)
            return _on_grid(lines, header)


def _choice(inner: str | None) -> tuple[dict[str, int], str | None]:
    """Return counters ("repetition=1") and the group that `::` names."""
    if inner is None or "=" not in inner:
        return {}, inner
    pairs = dict(part.partition("=")[::2] for part in inner.split(","))
    if not set(pairs) <= {*SINGLE, "slice"} or not all(v.isdigit() for v in pairs.values()):
        raise InputError(f"'{inner}' chooses nothing", f"counters: {', '.join((*SINGLE, 'slice'))}, such as set=0")
    return {key: int(value) for key, value in pairs.items()}, None


def _has_heads(file: Hdf5File, key: str) -> bool:
    names = file.info(key)[1].names
    return names is not None and {"head", "traj", "data"} <= set(names)


def _flag(heads: np.ndarray, bit: int) -> np.ndarray:
    return np.asarray(heads["flags"].astype(np.uint64) & np.uint64(1 << (bit - 1)) != 0)


def _lines(file: Hdf5File, key: str, wanted: dict[str, int]) -> _Lines:
    (count,), _ = file.info(key)
    # only the heads are kept: the samples of a batch are dropped again
    parts = [file.part(key, slice(i, i + BATCH))["head"].copy() for i in range(0, count, BATCH)]
    if not parts:
        raise InputError(f"{file.name}: no acquisition in it", "get the file again")
    heads = np.concatenate(parts)
    used = ~_flag(heads, NOISE) & (heads["encoding_space_ref"] == 0)
    for bit in LEFT_OUT:
        used &= ~_flag(heads, bit)
    for name, value in wanted.items():
        used &= heads["idx"][name] == value
    if not used.any():
        raise InputError(f"{file.name}: none of {count} acquisitions is chosen", "see docs/formats.md")
    for name in SINGLE:
        found = np.unique(heads["idx"][name][used])
        if len(found) > 1:
            raise InputError(
                f"{file.name}: {name} takes {len(found)} values ({found[0]} to {found[-1]}), expected one",
                f"choose: {file.name}::{name}={found[0]}",
            )
    if len(np.unique(heads["active_channels"][used])) > 1:
        raise InputError(f"{file.name}: the number of coils changes within the scan", "split the file")
    return _Lines(file, key, heads, np.flatnonzero(used))


def _on_grid(lines: _Lines, header: Header) -> Measurement:
    heads, name = lines.heads, lines.file.name
    nx, ny, nz = header.encoded.matrix
    chosen = lines.chosen
    slices = np.unique(heads["idx"]["slice"][chosen])
    places = {s: heads["position"][chosen[heads["idx"]["slice"][chosen] == s][0]] for s in slices}
    normal = heads["slice_dir"][chosen[0]]
    order = sorted(slices, key=lambda s: (float(places[s] @ normal), int(s)))
    coils = int(heads["active_channels"][chosen[0]])
    depth = nz if nz > 1 else len(order)
    if nz > 1 and len(order) > 1:
        raise InputError(f"{name}: {len(order)} slabs of 3-D k-space, expected one", f"choose: {name}::slice=0")
    if depth * coils * ny * nx * 8 > MAX_BYTES:
        raise InputError(f"{name}: k-space of {depth}x{coils}x{ny}x{nx} samples, more than is read", "split the file")
    white, notes = _whitening(lines, coils, chosen)
    kspace = np.zeros((depth, coils, ny, nx), np.complex64)
    count = np.zeros((depth, ny, nx), np.uint16)
    # lines measured for calibration alone fill gaps, and are not averaged with the image's own
    alone = _flag(heads[chosen], CALIBRATION)
    taken = np.zeros((depth, ny), bool)
    for own, numbers in ((True, chosen[~alone]), (False, chosen[alone])):
        before = taken.copy()
        for number, samples, _ in lines.samples(numbers):
            head = heads[number]
            row = _row(head, header, 0, ny, name)
            plane = _row(head, header, 1, nz, name) if nz > 1 else order.index(head["idx"]["slice"])
            if not own and before[plane, row]:
                continue
            into, of = _readout(head, nx, name)
            samples = samples[:, ::-1] if _flag(heads[number : number + 1], REVERSE)[0] else samples
            kspace[plane, :, row, into] += (white.matrix @ samples if white is not None else samples)[:, of]
            count[plane, row, into] += 1
            taken[plane, row] = True
    kspace /= np.maximum(count, 1)[:, None]
    sigma = None if white is None else white.sigma / math.sqrt(float(np.median(count[count > 0])))
    oversampling = max(header.encoded.fov[0] / header.shown.fov[0], 1.0)
    steps = header.encoded.steps
    meta = {"format": "ismrmrd"}
    crop_y, crop_x = (min(max(round(header.shown.fov[d] / steps[d]), 1), n) for d, n in ((1, ny), (0, nx)))
    if nz > 1:
        return _volume_scan(kspace, count, header, (crop_y, crop_x), sigma, notes, name)
    gap, affine = _place([places[s] for s in order], heads[chosen[0]], (crop_y, crop_x), steps)
    geometry = Geometry(("z", "y", "x"), affine, (gap, steps[1], steps[0]), "mm", meta=meta)
    masks: Any = (count > 0).astype(np.uint8)
    arrays: dict[str, np.ndarray] = {} if (masks != masks[:1]).any() else {"mask": masks[0]}
    scan = Scan((crop_y, crop_x), "x", oversampling, notes=tuple(notes))
    return _measurement(kspace, arrays, sigma, geometry, scan)


def _volume_scan(
    kspace: np.ndarray,
    count: np.ndarray,
    header: Header,
    crop: tuple[int, int],
    sigma: float | None,
    notes: list[str],
    name: str,
) -> Measurement:
    """Return 3-D k-space as slices along its readout, those of the field of view that is shown."""
    steps = header.encoded.steps
    moved = readout_to_slices(np.moveaxis(kspace, -1, 0).swapaxes(1, 2), name)  # (x, coils, z, y)
    start = moved.shape[0] // 2 - crop[1] // 2
    moved = moved[start : start + crop[1]]
    mask = np.asarray(np.any(count > 0, axis=2), np.uint8).reshape(count.shape[:2])
    depth = min(max(round(header.shown.fov[2] / steps[2]), 1), moved.shape[2])
    geometry = Geometry(("z", "y", "x"), None, (steps[0], steps[2], steps[1]), "mm", meta={"format": "ismrmrd"})
    notes = [*notes, f"3-D k-space: its readout became {len(moved)} slices, z; y and x are the two phase encodings"]
    return _measurement(moved, {"mask": mask}, sigma, geometry, Scan((depth, crop[0]), notes=tuple(notes)))


def _measurement(
    y: np.ndarray, arrays: dict[str, np.ndarray], sigma: float | None, geometry: Geometry, scan: Scan
) -> Measurement:
    spec = OperatorSpec("mri", {"mask": "given", "axis": "y"}, (1, *y.shape[-2:]), arrays)
    noise = None if sigma is None else NoiseSpec("gaussian", sigma)
    return Measurement(y, spec, noise, geometry, {"format": "ismrmrd"}, scan)


def _off_grid(lines: _Lines, header: Header) -> Measurement:
    """Return samples off the grid (1, coils, lines, n), with their trajectory (lines, n, dimensions) kept."""
    heads, name = lines.heads, lines.file.name
    first = heads[lines.chosen[0]]
    coils, samples, dims = (int(first[k]) for k in ("active_channels", "number_of_samples", "trajectory_dimensions"))
    odd = [k for k in ("number_of_samples", "trajectory_dimensions") if np.ptp(heads[k][lines.chosen])]
    if odd or not dims:
        what = f"{odd[0]} changes within the scan" if odd else "no trajectory is stored"
        raise InputError(f"{name}: a {header.trajectory} scan, and {what}", "store the trajectory of every line")
    white, notes = _whitening(lines, coils, lines.chosen)
    shape = (coils, len(lines.chosen), samples)
    y, trajectory = np.zeros(shape, np.complex64), np.zeros((*shape[1:], dims), np.float32)
    for i, (number, values, path) in enumerate(lines.samples(lines.chosen)):
        if np.size(path) != samples * dims:
            raise InputError(f"{name}: the trajectory of acquisition {number} has {np.size(path)} numbers", "store it")
        y[:, i] = white.matrix @ values if white is not None else values
        trajectory[i] = np.asarray(path, np.float32).reshape(samples, dims)
    if dims == 3 and not trajectory[..., 2].any():
        trajectory, dims = trajectory[..., :2], 2
    # the header's frequencies are per encoded pixel, the operator's per pixel of the image
    ratio = [b / a for a, b in zip(header.encoded.steps, header.shown.steps, strict=True)][:dims]
    trajectory = np.ascontiguousarray(trajectory * np.asarray(ratio, np.float32))
    notes.append(f"a {header.trajectory} scan: {shape[1]} shots of {samples} samples")
    size = header.shown.matrix[dims - 1 :: -1]
    spec = OperatorSpec("mri-nufft", {"trajectory": "given"}, (1, *size), {"trajectory": trajectory})
    noise = None if white is None else NoiseSpec("gaussian", white.sigma)
    steps = header.shown.steps
    geometry = Geometry(("z", "y", "x"), None, (steps[2], steps[1], steps[0]), "mm", meta={"format": "ismrmrd"})
    return Measurement(y[None], spec, noise, geometry, {"format": "ismrmrd"}, Scan(lines=False, notes=tuple(notes)))


def _whitening(lines: _Lines, coils: int, chosen: np.ndarray) -> tuple[Whitening | None, list[str]]:
    numbers = np.flatnonzero(_flag(lines.heads, NOISE) & (lines.heads["active_channels"] == coils))
    notes = []
    kinds: dict[str, int] = {}
    for bit, kind in LEFT_OUT.items():
        kinds[kind] = kinds.get(kind, 0) + int(_flag(lines.heads, bit).sum())
    left = [f"{count} {kind}" for kind, count in kinds.items() if count]
    if left:
        notes.append(f"acquisitions left out: {', '.join(left)}")
    if not len(numbers):
        return None, notes
    samples = np.concatenate([values for _, values, _ in lines.samples(numbers)], axis=1)
    times = [float(lines.heads["sample_time_us"][n]) for n in (chosen[0], numbers[0])]
    # noise power goes with the bandwidth, the inverse of the time a sample takes
    ratio = times[1] / times[0] if min(times) > 0 else 1.0
    white = whitening(samples, ratio)
    if white is None:
        return None, [*notes, f"the noise scan of {samples.shape[1]} samples is too short or empty: not used"]
    return white, [*notes, f"coils whitened by the noise scan of {samples.shape[1]} samples"]


def _row(head: np.void, header: Header, which: int, size: int, name: str) -> int:
    step = int(head["idx"][("kspace_encode_step_1", "kspace_encode_step_2")[which]])
    centre = header.centre[which]
    row = step if centre is None else size // 2 + step - centre
    if not 0 <= row < size:
        raise InputError(
            f"{name}: encoding step {step} with centre {centre} lies outside the {size} lines of the encoded matrix",
            "correct the header",
        )
    return row


def _readout(head: np.void, size: int, name: str) -> tuple[slice, slice]:
    count, centre = int(head["number_of_samples"]), int(head["center_sample"])
    first, last = int(head["discard_pre"]), count - int(head["discard_post"])
    found = placement(size, centre, first, last)
    if found is None:
        raise InputError(
            f"{name}: a readout of {count} samples with centre {centre} does not fit {size} encoded points",
            "correct the header",
        )
    return found


def _place(
    positions: list[np.ndarray], head: np.void, size: tuple[int, int], steps: tuple[float, ...]
) -> tuple[float, np.ndarray | None]:
    """Return the distance of slices, and the affine to RAS of images (z, y, x) of this size or None."""
    across, down, normal = (np.asarray(head[k], np.float64) for k in ("read_dir", "phase_dir", "slice_dir"))
    frame = np.stack([across, down, normal])
    if np.abs(frame @ frame.T - np.eye(3)).max() > 1e-3:
        return float(steps[2]), None
    step = normal * steps[2]
    if len(positions) > 1:
        moves = np.diff(np.stack(positions).astype(np.float64), axis=0)
        step = moves.mean(axis=0)
        if not np.linalg.norm(step) > 0 or np.abs(moves - step).max() > 0.02 * float(np.linalg.norm(step)):
            return float(steps[2]), None
    lps = np.eye(4)
    lps[:3, :3] = np.stack([across * steps[0], down * steps[1], step], axis=1)
    lps[:3, 3] = positions[0] - lps[:3, 0] * (size[1] // 2) - lps[:3, 1] * (size[0] // 2)
    return float(np.linalg.norm(step)), np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
