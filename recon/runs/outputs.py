"""Names of a run's output files, and writing them so that either all of them appear or none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recon.data import Geometry, Volume, from_stack
from recon.errors import ConfigError, InputError
from recon.io.atomic import check_writable, remove, write_bytes
from recon.io.catalog import format_of_name
from recon.io.disk import converted
from recon.io.registry import check_volume, write_volume

# an 8 or 16 bit picture cannot hold these: they go into a float format beside it
FLOAT_COMPANION = {".png": ".tiff"}


@dataclass(frozen=True)
class OutputNames:
    """Files of one run."""

    image: Path
    sidecar: Path
    std: Path | None = None
    samples: Path | None = None
    report: Path | None = None

    def all(self) -> list[Path]:
        """Every file that will be written."""
        return [p for p in (self.image, self.std, self.samples, self.sidecar, self.report) if p is not None]


def output_names(output: Path, samples: int, report: Path | None = None) -> OutputNames:
    """Return OUT, OUT.json and, for several samples, OUT_std and OUT_samples; and the report where one is asked for."""
    sidecar = output.with_name(output.name + ".json")
    if samples < 2:
        return OutputNames(output, sidecar, report=report)
    stem, extension = split_extension(output)
    extension = FLOAT_COMPANION.get(extension.lower(), extension)
    std, many = (output.with_name(f"{stem}_{what}{extension}") for what in ("std", "samples"))
    return OutputNames(output, sidecar, std, many, report)


def last_state_name(output: Path) -> Path:
    """Return OUT_last: the last good state of a run that diverged."""
    stem, extension = split_extension(output)
    return output.with_name(f"{stem}_last{extension}")


def split_extension(path: Path) -> tuple[str, str]:
    """Return (stem, extension) of a file name, with ".nii.gz" as one extension."""
    form = format_of_name(path.name)
    known = form.extensions + form.folders if form is not None else (path.suffix,)
    extension = max((e for e in known if path.name.lower().endswith(e)), key=len, default="")
    return path.name[: len(path.name) - len(extension)], path.name[len(path.name) - len(extension) :]


def check_outputs(names: OutputNames, force: bool) -> None:
    """Refuse existing outputs and folders that cannot be written, before any work starts."""
    check_writable(names.all(), force)


def image_geometry(geometry: Geometry | None, shape: tuple[int, ...]) -> Geometry:
    """Return the geometry of the output: that of the input, or plain axes for a stack of this (N, C, Y, X)."""
    if geometry is not None:
        return geometry
    axes = tuple(a for a, n in zip(("n", "c"), shape[:2], strict=True) if n > 1)
    return Geometry((*axes, "y", "x"))


def check_images(
    names: OutputNames, samples: int, shape: tuple[int, ...], complex_image: bool, geometry: Geometry | None
) -> None:
    """Refuse, before any work, outputs whose format cannot hold an image of this (N, C, Y, X), its spread or samples.

    Raises UsageError for an unknown extension, InputError where the format cannot hold it, ConfigError for samples of
    several items.
    """
    output = names.image
    if split_extension(output)[1].lower() == ".png" and (geometry is None or geometry.value_range is None):
        raise InputError(
            "a PNG cannot hold this image: its values have no declared range",
            "write .nii.gz, .tiff or .npy, and make a picture with: recon view OUTPUT PICTURE.png",
        )
    empty = np.broadcast_to(np.zeros((), np.complex64 if complex_image else np.float32), shape)
    image = from_stack(empty, image_geometry(geometry, shape))
    check_volume(output, image)
    free = replace(image.geometry, value_range=None)
    if names.std is not None:
        check_volume(names.std, from_stack(empty.real, free))
    if names.samples is not None:
        # two stand for any number, without their memory
        check_volume(names.samples, _sample_volume(np.broadcast_to(empty, (min(samples, 2), *shape)), free))


def write_images(
    names: OutputNames, mean: np.ndarray, std: np.ndarray | None, samples: np.ndarray, geometry: Geometry, force: bool
) -> None:
    """Write the reconstruction (N, C, Y, X) and, where named, the std map and all samples (S, N, C, Y, X)."""
    write_volume(names.image, from_stack(_single(mean), geometry, view=True), force=force)
    # spread has no declared black and white
    free = replace(geometry, value_range=None)
    if names.std is not None and std is not None:
        write_volume(names.std, from_stack(_single(std), free, view=True), force=force)
    if names.samples is not None:
        write_volume(names.samples, _sample_volume(_single(samples), free), force=force)


@contextmanager
def all_or_nothing(names: OutputNames) -> Iterator[None]:
    """Remove the files of this run that were not there before, if anything goes wrong in the block."""
    fresh = [path for path in names.all() if not path.exists()]
    try:
        yield
    except BaseException:
        for path in fresh:
            remove(path)
        raise


def _sample_volume(samples: np.ndarray, geometry: Geometry) -> Volume:
    """Return samples with an axis `n` after the image's own axes (NIfTI's fourth), or before them elsewhere."""
    images = [from_stack(s, geometry).array for s in samples]
    if "n" in geometry.axes:
        if samples.shape[1] > 1:
            raise ConfigError("samples of several items cannot go into one file", "reconstruct the items one at a time")
        return Volume(np.concatenate(images, axis=geometry.axes.index("n")), geometry)
    last = geometry.axes[0] == "x"
    axes = (*geometry.axes, "n") if last else ("n", *geometry.axes)
    spacing = geometry.spacing
    if spacing is not None:
        spacing = (*spacing, 1.0) if last else (1.0, *spacing)
    return Volume(np.stack(images, axis=-1 if last else 0), replace(geometry, axes=axes, spacing=spacing))


def _single(array: np.ndarray) -> np.ndarray:
    return converted(array, np.complex64 if np.iscomplexobj(array) else np.float32)


def write_sidecar(path: Path, content: dict[str, Any], force: bool) -> None:
    """Write the sidecar as indented JSON; NaN and infinity are not allowed in it."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode(), force=force)
