"""Which layout a container has, by what lies in it: the field's own HDF5 files, and folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.errors import InputError
from recon.io.source import Source

if TYPE_CHECKING:
    import h5py

# a folder beyond this is no series
MAX_FILES = 20_000
_FASTMRI_IMAGES = ("reconstruction", "reconstruction_rss", "reconstruction_esc")


def hdf5_layout(source: Source) -> str:
    """Return the format of an HDF5 file: one of the field's layouts, or "hdf5" for all others, also damaged ones."""
    import h5py

    source.stream.seek(0)
    try:
        with h5py.File(source.stream, "r") as file:
            return _layout(file)
    except Exception:
        return "hdf5"
    finally:
        source.stream.seek(0)


def folder_format(source: Source) -> str:
    """Return the format of a folder. Raises InputError where it holds none that is known."""
    path = source.path
    if path is not None and any((path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup")):
        return "zarr"
    if path is not None and next(dicom_files(path), None) is not None:
        return "dicom"
    raise InputError(
        f"cannot read {source.name}: a folder with no DICOM file in it, and no Zarr store", "name a file in it"
    )


def dicom_files(folder: Path) -> Iterator[Path]:
    """Yield the DICOM files below a folder, in the order of their names. Raises InputError for too many files."""
    for number, path in enumerate(sorted(folder.rglob("*"))):
        if number >= MAX_FILES:
            raise InputError(
                f"cannot read {folder}: more than {MAX_FILES} files in it", "name the folder of one series"
            )
        if path.is_file() and not path.name.startswith(".") and path.name != "DICOMDIR" and is_dicom(path):
            yield path


def is_dicom(path: Path) -> bool:
    """Tell whether a file has the mark of a DICOM file."""
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _layout(file: h5py.File) -> str:
    import h5py

    if _is_array(file, "exchange/data", 3) or any(_is_nxtomo(file.get(name)) for name in file):
        return "tomography"
    if any(_is_mrd(file.get(name)) for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)):
        return "ismrmrd"
    # a lone array of such a name is an array; what lies beside it makes it a fastMRI file
    known = ("ismrmrd_header", "mask", *_FASTMRI_IMAGES)
    images = any(_is_array(file, name, 3) for name in _FASTMRI_IMAGES)
    if "format" not in file and _is_array(file, "kspace", 3) and any(name in file for name in known):
        return "fastmri"
    if "image" not in file and images:
        return "fastmri"
    return "hdf5"


def _is_nxtomo(group: Any) -> bool:
    """Tell whether a group, or one right below it, says that it follows NXtomo."""
    import h5py

    if not isinstance(group, h5py.Group):
        return False
    for entry in (group, *(g for g in group.values() if isinstance(g, h5py.Group))):
        found = entry.get("definition")
        if isinstance(found, h5py.Dataset) and found.shape in ((), (1,)) and "NXtomo" in str(found[()]):
            return True
    return False


def _is_mrd(group: Any) -> bool:
    """Tell whether a group holds acquisitions or images of ISMRMRD."""
    import h5py

    if not isinstance(group, h5py.Group) or "xml" not in group:
        return False
    data = group.get("data")
    if isinstance(data, h5py.Dataset) and data.dtype.names is not None and "head" in data.dtype.names:
        return True
    return any(isinstance(m, h5py.Group) and {"header", "data"} <= set(m) for m in group.values())


def _is_array(file: h5py.File, name: str, least: int) -> bool:
    """Tell whether the file itself holds an array of at least so many dimensions under this name."""
    import h5py

    found: Any = file.get(name) if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    return isinstance(found, h5py.Dataset) and len(found.shape or ()) >= least
