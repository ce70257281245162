"""Which format a file has: by its content; the extension decides only where the content leaves several."""

from __future__ import annotations

import zlib

from recon.errors import InputError
from recon.io.bart import is_pair
from recon.io.catalog import FORMATS, format_of_name
from recon.io.layouts import folder_format, hdf5_layout
from recon.io.nifti import is_header
from recon.io.png import SIGNATURE
from recon.io.source import Source

_HEAD = 2048 + 8
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_KNOWN_OTHERS = (
    (0, b"\xff\xd8\xff", "a JPEG picture", "convert it to .png or .tiff"),
    (0, b"GIF8", "a GIF picture", "convert it to .png or .tiff"),
    (0, b"BM", "a BMP picture", "convert it to .png or .tiff"),
    (0, b"NRRD", "an NRRD file", "convert it to .nii"),
    (0, b"\x80\x04", "a Python pickle", "save plain arrays: pickles can run code and are never read"),
    (0, b"\x80\x02", "a Python pickle", "save plain arrays: pickles can run code and are never read"),
)


def sniff_source(source: Source) -> str:
    """Return the name of the format of an opened file and rewind it.

    Raises InputError, naming the formats that can be read, where the content is of none of them.
    """
    if source.path is not None and source.path.is_dir():
        return folder_format(source)
    if is_pair(source):
        return "bart"
    source.stream.seek(0)
    head = source.stream.read(_HEAD)
    source.stream.seek(0)
    if not head:
        raise InputError(f"{source.name}: the file is empty", "get the file again")
    for offset, magic, what, hint in _KNOWN_OTHERS:
        if head[offset:].startswith(magic):
            raise InputError(f"{source.name}: {what}, which recon does not read", hint)
    by_name = format_of_name(source.name)
    found = _candidates(head)
    if not found and by_name is FORMATS["toml"] and b"\0" not in head:
        found = ["toml"]
    if not found:
        names = ", ".join(FORMATS)
        raise InputError(f"{source.name}: its content is of no known format", f"formats that recon reads: {names}")
    chosen = by_name.name if by_name is not None and by_name.name in found else found[0]
    return hdf5_layout(source) if chosen == "hdf5" else chosen


def _candidates(head: bytes) -> list[str]:
    found = []
    if head.startswith(b"MATLAB"):
        found.append("matlab")
    # before TIFF: the free bytes ahead of the mark may be a TIFF header of the same picture
    if head[128:132] == b"DICM":
        found.append("dicom")
    if head.startswith(b"\x93NUMPY"):
        found.append("npy")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        found.append("npz")
    if head.startswith(SIGNATURE):
        found.append("png")
    if head.startswith(_TIFF):
        found.append("tiff")
    if any(head[offset:].startswith(_HDF5) for offset in (0, 512, 1024, 2048)):
        found.append("hdf5")
    if is_header(_unzipped(head)):
        found.append("nifti")
    return found


def _unzipped(head: bytes) -> bytes:
    """Return the first bytes of a gzip stream, or the bytes themselves."""
    if not head.startswith(b"\x1f\x8b"):
        return head[:544]
    try:
        return zlib.decompressobj(wbits=31).decompress(head, 544)
    except zlib.error:
        return b""
