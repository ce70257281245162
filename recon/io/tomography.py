"""Tomography HDF5 files: Data Exchange and NeXus NXtomo, as line integrals with their angles.

    y = -ln((raw - dark) / (flat - dark)) / pixel size,   dark and flat the means of their frames

Each detector row is a slice of its own under a parallel beam. Angles are read, in degrees, never invented; the rotation
axis is the file's where it says one, else the middle of the detector. Rows are normalised in blocks, so that raw counts
are never in memory as a whole.
Source: Data Exchange, De Carlo et al., J. Synchrotron Rad. 21, 2014; NeXus application definition NXtomo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from recon.data import Geometry, Measurement, NoiseSpec, OperatorSpec, Scan, Volume
from recon.errors import InputError
from recon.io.hdf5 import Hdf5File, open_hdf5
from recon.io.source import MAX_BYTES, Source, reading

PROJECTION, FLAT, DARK, INVALID = 0, 1, 2, 3
# transmission below this counts as this: a ray that lets nothing through
LEAST = 1e-4
BLOCK_BYTES = 64 * 2**20
_MM = {"m": 1e3, "metre": 1e3, "meter": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "nm": 1e-6}
_RADIANS = ("rad", "radian", "radians")


@dataclass(frozen=True)
class _Raw:
    """Where a scan lies in its file: which frames of `data` are projections, its flats and darks.

    angles: in degrees, of the projections.  centre: column of the rotation axis, or None.  pixel: in mm, or None.
    """

    file: Hdf5File
    data: str
    frames: np.ndarray
    flats: tuple[str, np.ndarray | None] | None
    darks: tuple[str, np.ndarray | None] | None
    angles: np.ndarray
    centre: float | None
    pixel: float | None


def read(source: Source, axes: tuple[str, ...] | None = None) -> Volume:
    """Raise InputError: such a file holds projections, not an image."""
    raise InputError(f"{source.name}: it holds projections, expected an image", "reconstruct it with: recon run")


def read_measurement(source: Source) -> Measurement:
    """Return line integrals (rows, 1, angles, columns) of a Data Exchange or NXtomo file, with operator and geometry.

    Raises InputError where angles are missing or do not fit, or where flats do.
    """
    with open_hdf5(source) as file, reading(source.name, "tomography file"):
        raw = _data_exchange(file) if "exchange/data" in file.keys() else _nxtomo(file, source.inner)
        return _measurement(raw)


def _data_exchange(file: Hdf5File) -> _Raw:
    keys = file.keys()
    shape, _ = file.info("exchange/data")
    _check_frames(file, "exchange/data", shape)
    if "exchange/theta" not in keys:
        raise InputError(
            f"{file.name}: no exchange/theta: the angles of its {shape[0]} projections are not known",
            "add the angles in degrees; they are never invented",
        )
    angles = file.numbers("exchange/theta").reshape(-1)
    if str(file.attribute("units", "exchange/theta") or "deg").lower() in _RADIANS:
        angles = np.degrees(angles)
    frames = np.arange(shape[0])
    if angles.size != shape[0]:
        raise InputError(f"{file.name}: {angles.size} angles for {shape[0]} projections", "give one angle a projection")
    flats = ("exchange/data_white", None) if "exchange/data_white" in keys else None
    darks = ("exchange/data_dark", None) if "exchange/data_dark" in keys else None
    pixel = _length(
        file, ("measurement/instrument/detector/actual_pixel_size_x", "measurement/instrument/detector/pixel_size_x")
    )
    centre = next(
        (k for k in ("process/rotation_axis", "exchange/center", "exchange/rotation_axis") if k in keys), None
    )
    where = None if centre is None else float(file.numbers(centre).reshape(-1)[0])
    return _Raw(file, "exchange/data", frames, flats, darks, angles, where, pixel)


def _nxtomo(file: Hdf5File, inner: str | None) -> _Raw:
    keys = file.keys()
    entries = [k.removesuffix("/definition") for k in keys if k.endswith("/definition") and file.text(k) == "NXtomo"]
    if inner is not None:
        entries = [e for e in entries if e == inner]
    if len(entries) != 1:
        raise InputError(
            f"{file.name}: {len(entries)} NXtomo entries in it{': ' + ', '.join(entries[:6]) if entries else ''}",
            f"name one: {file.name}::ENTRY",
        )
    entry = entries[0]
    group = next(
        (g for g in ("instrument/detector", "tomo_entry/instrument/detector") if f"{entry}/{g}/data" in keys), ""
    )
    data = f"{entry}/{group}/data" if group else f"{entry}/data/data"
    key = next((k for k in (f"{entry}/{group}/image_key", f"{entry}/data/image_key") if k in keys), None)
    theta = next((k for k in (f"{entry}/sample/rotation_angle", f"{entry}/data/rotation_angle") if k in keys), None)
    if data not in keys or key is None or theta is None:
        lost = "data" if data not in keys else "image_key" if key is None else "sample/rotation_angle"
        raise InputError(f"{file.name}: its NXtomo entry has no {lost}", "angles and frame kinds are never invented")
    shape, _ = file.info(data)
    _check_frames(file, data, shape)
    kinds, turns = file.numbers(key).reshape(-1), file.numbers(theta).reshape(-1)
    if kinds.size != shape[0] or turns.size != shape[0]:
        raise InputError(
            f"{file.name}: {shape[0]} frames, {kinds.size} image keys and {turns.size} angles, expected as many each",
            "write the file again",
        )
    if str(file.attribute("units", theta) or "deg").lower() in _RADIANS:
        turns = np.degrees(turns)
    frames = np.flatnonzero(kinds == PROJECTION)
    flats, darks = np.flatnonzero(kinds == FLAT), np.flatnonzero(kinds == DARK)
    pixel = _length(file, (f"{entry}/{group}/x_pixel_size",))
    return _Raw(
        file,
        data,
        frames,
        (data, flats) if len(flats) else None,
        (data, darks) if len(darks) else None,
        turns[frames],
        None,
        pixel,
    )


def _measurement(raw: _Raw) -> Measurement:
    file = raw.file
    if not len(raw.frames):
        raise InputError(f"{file.name}: no projection in it", "check image_key: 0 marks projections")
    if not np.isfinite(raw.angles).all():
        raise InputError(f"{file.name}: an angle is not a finite number", "correct the angles")
    (_, rows, columns), _ = file.info(raw.data)
    views = len(raw.frames)
    if rows * views * columns * 4 > MAX_BYTES:
        raise InputError(f"{file.name}: {views}x{rows}x{columns} projections, more than is read", "crop the rows")
    notes, flat, dark, noise = _references(raw, rows, columns)
    y = np.empty((rows, 1, views, columns), np.float32)
    scale = 1.0 if raw.pixel is None else raw.pixel
    blocked = 0
    step = max(1, BLOCK_BYTES // (8 * views * columns))
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        # the frames of a file lie in order: reading all between the first and the last costs the references alone
        first, last = int(raw.frames[0]), int(raw.frames[-1]) + 1
        block = file.part(raw.data, (slice(first, last), part))[raw.frames - first].astype(np.float32)
        if flat is not None:
            seen = (block - dark[part]) / np.maximum(flat[part] - dark[part], 1e-12)
            blocked += int(np.count_nonzero(~(seen >= LEAST)))
            block = -np.log(np.where(seen >= LEAST, seen, LEAST))
        y[part, 0] = block.swapaxes(0, 1)
    if blocked:
        notes.append(f"{blocked} of {y.size} rays let less than {LEAST:g} through: taken as that")
    params: dict[str, Any] = {"detectors": columns, "pixel_size": scale, "allow_truncation": True}
    if raw.centre is not None:
        if not 0 <= raw.centre <= columns - 1:
            raise InputError(f"{file.name}: rotation axis at column {raw.centre:g} of {columns}", "correct it")
        params["detector_offset"] = (columns - 1) / 2 - raw.centre
        notes.append(f"rotation axis at column {raw.centre:g}, as the file says")
    else:
        notes.append(f"rotation axis: the file says none, taken at the middle, column {(columns - 1) / 2:g}")
    spec = OperatorSpec("ct", params, (1, columns, columns), {"angles": raw.angles.astype(np.float64)})
    known = raw.pixel is not None
    geometry = Geometry(
        ("z", "y", "x"),
        spacing=(scale,) * 3 if known else None,
        units="mm" if known else None,
        meta={"format": file.form},
    )
    return Measurement(y, spec, noise, geometry, {"format": "tomography"}, Scan(notes=tuple(notes)))


def _references(
    raw: _Raw, rows: int, columns: int
) -> tuple[list[str], np.ndarray | None, np.ndarray, NoiseSpec | None]:
    """Return notes, mean flat and dark (rows, columns), and the noise of an unattenuated ray where flats repeat."""
    dark = np.zeros((rows, columns), np.float32)
    darks = None if raw.darks is None else _frames(raw, raw.darks, rows, columns)
    if darks is not None:
        dark = darks.mean(axis=0, dtype=np.float64).astype(np.float32)
    if raw.flats is None:
        if raw.darks is not None:
            raise InputError(
                f"{raw.file.name}: dark frames without flat ones", "give flats, or data already normalised"
            )
        return ["no flat frames: the data are taken as line integrals already"], None, dark, None
    flats = _frames(raw, raw.flats, rows, columns)
    flat = flats.mean(axis=0, dtype=np.float64).astype(np.float32)
    dead = int(np.count_nonzero(flat <= dark))
    if dead == flat.size:
        raise InputError(f"{raw.file.name}: flat frames are not brighter than dark ones", "check which is which")
    notes = [f"normalised by {len(flats)} flat and {0 if darks is None else len(darks)} dark frames, logarithm taken"]
    if dead:
        notes.append(f"{dead} of {flat.size} detector pixels see nothing")
    noise = None
    if len(flats) > 2:
        usable = flat > dark
        spread = flats.std(axis=0, ddof=1)[usable] / (flat - dark)[usable]
        sigma = float(np.sqrt(np.mean(spread**2)))
        if sigma > 0:
            noise = NoiseSpec("gaussian", sigma)
            notes.append(f"noise: sigma {sigma:.3g} of a line integral, from the spread of the flat frames")
    return notes, flat, dark, noise


def _frames(raw: _Raw, where: tuple[str, np.ndarray | None], rows: int, columns: int) -> np.ndarray:
    key, numbers = where
    shape, _ = raw.file.info(key)
    if shape[-2:] != (rows, columns):
        raise InputError(
            f"{raw.file.name}: {key} has shape {shape}, expected frames of ({rows}, {columns})", "check it"
        )
    if numbers is None:
        found = raw.file.array(key)
    else:
        found = np.stack([raw.file.part(key, int(n)) for n in numbers])
    return found.reshape(-1, rows, columns).astype(np.float32)


def _check_frames(file: Hdf5File, key: str, shape: tuple[int, ...]) -> None:
    kind = file.info(key)[1].kind
    if len(shape) != 3 or min(shape) < 1 or kind not in "iuf":
        raise InputError(
            f"{file.name}: {key} has type {file.info(key)[1]} and shape {shape}, expected (angles, rows, columns)",
            "see docs/formats.md",
        )


def _length(file: Hdf5File, names: tuple[str, ...]) -> float | None:
    """Return a length in mm, where one of the names holds one with known units."""
    key = next((k for k in names if k in file.keys()), None)
    if key is None:
        return None
    value = float(file.numbers(key).reshape(-1)[0])
    factor = _MM.get(str(file.attribute("units", key) or "m").lower())
    return value * factor if factor is not None and 0 < value < math.inf else None
