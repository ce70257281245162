"""The file formats that `recon` reads and writes, for listings; the standard library only, so that help stays fast."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One file format.

    module: of `read(source, axes) -> Volume` and `write(stream, volume) -> facts`, or None where it holds no image.
    reads, writes: what such a file can hold: image, measurement, operator.
    folders: extensions of names written as a folder.  beside: extensions of files written beside the one named.
    """

    name: str
    module: str | None
    extensions: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    line: str
    folders: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


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
            "fastmri",
            "recon.io.fastmri",
            (".fastmri.h5",),
            ("image", "measurement"),
            ("image", "measurement"),
            "fastMRI HDF5: k-space of slices and coils, mask, reconstructions",
        ),
        Format(
            "ismrmrd",
            "recon.io.ismrmrd",
            (".mrd", ".ismrmrd.h5"),
            ("image", "measurement"),
            ("image",),
            "ISMRMRD HDF5: acquisitions sorted into k-space, noise scans used; images",
        ),
        Format(
            "tomography",
            "recon.io.tomography",
            (),
            ("measurement",),
            (),
            "Data Exchange and NeXus NXtomo HDF5: projections with flats, darks and angles",
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
            "bart",
            "recon.io.bart",
            (".cfl",),
            ("image", "measurement"),
            ("image", "measurement"),
            "BART: k-space or image, complex64, with a header beside it",
            beside=(".hdr",),
        ),
        Format(
            "dicom",
            "recon.io.dicom",
            (".dcm",),
            ("image", "measurement"),
            ("image",),
            "DICOM series of one volume, or one file; written as a derived series",
            folders=(".dicom",),
        ),
        Format(
            "matlab",
            "recon.io.matlab",
            (".mat",),
            ("image", "measurement", "operator"),
            (),
            "MATLAB variables, versions 5 to 7 and 7.3; MATLAB's order of dimensions",
        ),
        Format(
            "zarr",
            "recon.io.zarr",
            (),
            ("image", "measurement"),
            ("image",),
            "Zarr and OME-Zarr 0.4 and 0.5 (folders)",
            folders=(".zarr",),
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


# formats that are HDF5 files of a layout of their own
HDF5_LAYOUTS = ("fastmri", "ismrmrd", "tomography")


def supported(use: str, way: str) -> str:
    """Return the extensions of the formats that can do this, for messages; `way` is "reads" or "writes"."""
    found = [ext for f in FORMATS.values() if use in getattr(f, way) for ext in f.extensions + f.folders]
    return ", ".join(found)


def format_of_name(path: str) -> Format | None:
    """Return the format that a file name's extension means, or None; the longest extension that fits decides."""
    lower = path.lower().rstrip("/")
    fits = [(len(e), f) for f in FORMATS.values() for e in f.extensions + f.folders if lower.endswith(e)]
    return max(fits, key=lambda fit: fit[0])[1] if fits else None


def is_folder_name(path: str | os.PathLike[str]) -> bool:
    """Tell whether an output of this name is written as a folder."""
    name = os.fspath(path).lower().rstrip("/")
    return any(name.endswith(f.folders) for f in FORMATS.values() if f.folders)


def names_written(path: str) -> list[str]:
    """Return the names of the files that an output of this name consists of, itself first."""
    for form in FORMATS.values():
        for extension in form.extensions if form.beside else ():
            if path.lower().endswith(extension):
                return [path, *(path[: len(path) - len(extension)] + other for other in form.beside)]
    return [path]
