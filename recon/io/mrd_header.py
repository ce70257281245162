"""The XML header of ISMRMRD, which fastMRI files carry too: matrix sizes and fields of view.

Source: the ISMRMRD schema, http://www.ismrm.org/ISMRMRD, elements encoding/encodedSpace and encoding/reconSpace.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from recon.errors import InputError

MAX_CHARACTERS = 2**22
_NAMESPACE = "http://www.ismrm.org/ISMRMRD"


@dataclass(frozen=True)
class Space:
    """matrix: points along (x: readout, y, z).  fov: in mm, along the same."""

    matrix: tuple[int, int, int]
    fov: tuple[float, float, float]

    @property
    def steps(self) -> tuple[float, ...]:
        """Size of a point along (x, y, z) in mm."""
        return tuple(f / n for f, n in zip(self.fov, self.matrix, strict=True))


@dataclass(frozen=True)
class Header:
    """What is used of the header.

    centre: index of the line through the centre of k-space, along (y, z); None where the header does not say.
    """

    encoded: Space
    shown: Space
    trajectory: str
    centre: tuple[int | None, int | None] = (None, None)
    encodings: int = 1


def parse_header(text: str, name: str) -> Header:
    """Return the header of an XML text. Raises InputError where it is damaged, hostile or lacks a size."""
    if len(text) > MAX_CHARACTERS or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(f"{name}: its header is no plain ISMRMRD XML, refused", "write the file again")
    try:
        root = ET.fromstring(text.rstrip("\0"))
    except (ET.ParseError, ValueError) as err:
        raise InputError(f"{name}: its header is not valid XML ({err})", "get the file again") from err
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    encodings = root.findall("encoding")
    if not encodings:
        raise InputError(f"{name}: its header has no encoding", "write it with the matrix sizes")
    first = encodings[0]
    shown = "reconSpace" if first.find("reconSpace") is not None else "encodedSpace"
    return Header(
        _space(first, "encodedSpace", name),
        _space(first, shown, name),
        (first.findtext("trajectory") or "cartesian").strip().lower(),
        (_centre(first, "kspace_encoding_step_1"), _centre(first, "kspace_encoding_step_2")),
        len(encodings),
    )


def header_xml(encoded: Space, shown: Space) -> str:
    """Return the smallest header that says both spaces; it names nobody and no device."""

    def space(tag: str, found: Space) -> str:
        matrix = "".join(f"<{a}>{n}</{a}>" for a, n in zip("xyz", found.matrix, strict=True))
        fov = "".join(f"<{a}>{f!r}</{a}>" for a, f in zip("xyz", found.fov, strict=True))
        return f"<{tag}><matrixSize>{matrix}</matrixSize><fieldOfView_mm>{fov}</fieldOfView_mm></{tag}>"

    inner = space("encodedSpace", encoded) + space("reconSpace", shown)
    return (
        f'<?xml version="1.0"?><ismrmrdHeader xmlns="{_NAMESPACE}">'
        "<experimentalConditions><H1resonanceFrequency_Hz>0</H1resonanceFrequency_Hz></experimentalConditions>"
        f"<encoding>{inner}<encodingLimits/><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    )


def _space(encoding: ET.Element, tag: str, name: str) -> Space:
    found = encoding.find(tag)
    try:
        if found is None:
            raise ValueError(f"no {tag}")
        matrix = [int(found.findtext(f"matrixSize/{axis}") or "") for axis in "xyz"]
        fov = [float(found.findtext(f"fieldOfView_mm/{axis}") or "") for axis in "xyz"]
        if min(matrix) < 1 or max(matrix) > 2**16 or not all(0 < f < math.inf for f in fov):
            raise ValueError(f"matrix {matrix}, field of view {fov}")
    except ValueError as err:
        raise InputError(f"{name}: the {tag} of its header is not valid ({err})", "correct the header") from err
    return Space((matrix[0], matrix[1], matrix[2]), (fov[0], fov[1], fov[2]))


def _centre(encoding: ET.Element, limit: str) -> int | None:
    text = encoding.findtext(f"encodingLimits/{limit}/center")
    return int(text) if text is not None and text.strip().isdigit() else None
