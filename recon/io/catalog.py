"""The file formats that `recon` reads and writes, for listings; the standard library only, so that help stays fast."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One file format.

    module: of `read(source, axes) -> Volume` and `write(stream, volume) -> facts`, or None where it holds no image.
    reads, writes: what such a file can hold: image, measurement, operator.
    """

    name: str
    module: str | None
    extensions: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    line: str


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format(
            "npy",
            "recon.io.npy",
            (".npy",),
            ("image", "measurement", "operator"),
            ("image",),
            "one NumPy array, real or complex",
        ),
        Format(
            "npz",
            "recon.io.npz",
            (".npz",),
            ("image", "measurement", "operator"),
            ("image", "measurement"),
            "named NumPy arrays: image with axes, measurement, or matrix",
        ),
        Format(
            "hdf5",
            "recon.io.hdf5",
            (".h5", ".hdf5", ".hdf"),
            ("image", "measurement", "operator"),
            ("image", "measurement"),
            "HDF5: measurement, image dataset, or matrix",
        ),
        Format(
            "png",
            "recon.io.png",
            (".png",),
            ("image", "measurement"),
            ("image",),
            "8 and 16 bit, grey and RGB; one picture",
        ),
        Format(
            "tiff",
            "recon.io.tiff",
            (".tif", ".tiff"),
            ("image", "measurement"),
            ("image",),
            "pictures and stacks with axes and pixel size (also OME, ImageJ); float32 or integers",
        ),
        Format(
            "nifti",
            "recon.io.nifti",
            (".nii", ".nii.gz"),
            ("image", "measurement"),
            ("image",),
            "slices and volumes with affine; float32, or complex64",
        ),
        Format(
            "toml",
            None,
            (".toml",),
            ("operator",),
            (),
            "operator file: kind, parameters, paths of arrays",
        ),
    )
}


def supported(use: str, way: str) -> str:
    """Return the extensions of the formats that can do this, for messages; `way` is "reads" or "writes"."""
    found = [ext for f in FORMATS.values() if use in getattr(f, way) for ext in f.extensions]
    return ", ".join(found)


def format_of_name(path: str) -> Format | None:
    """Return the format that a file name's extension means, or None."""
    lower = path.lower()
    return next((f for f in FORMATS.values() if lower.endswith(f.extensions)), None)
