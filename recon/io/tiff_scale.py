"""Pixel sizes of TIFF files: resolution tags, ImageJ, OME and tifffile metadata, and our own exact facts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from recon.data import Geometry

if TYPE_CHECKING:
    import tifffile

_MM = {"m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 1e-3, "nm": 1e-6}
_ALIASES = {"micron": "um", "microns": "um", "\u00b5m": "um", "\u03bcm": "um", "\\u00B5m": "um", "millimeter": "mm"}
_TAG_MM = {2: 25.4, 3: 10.0}


@dataclass(frozen=True)
class Scale:
    """Pixel sizes found in a TIFF file; steps: by axis name, in `units`.  tags: the resolution tags as they are."""

    steps: dict[str, float] = field(default_factory=dict)
    units: str | None = None
    affine: np.ndarray | None = None
    value_range: tuple[float, float] | None = None
    tags: dict[str, Any] = field(default_factory=dict)


def file_scale(tif: tifffile.TiffFile) -> Scale:
    """Return what the file says of its scale: our own facts first, then OME, ImageJ, and the resolution tags."""
    own = tif.shaped_metadata[0] if tif.shaped_metadata else {}
    tags = _resolution_tags(tif.pages.first)
    if "steps" in own:
        limits, affine = own.get("value_range"), own.get("affine")
        return Scale(
            {str(k): float(v) for k, v in own["steps"].items()},
            own.get("unit"),
            None if affine is None else np.asarray(affine, np.float64).reshape(4, 4),
            None if limits is None else (float(limits[0]), float(limits[1])),
            tags,
        )
    if tif.is_ome and tif.ome_metadata:
        steps, units = _ome_steps(tif.ome_metadata)
        return Scale(steps, units, tags=tags)
    if tif.is_imagej and tif.imagej_metadata:
        return _imagej_scale(tif.imagej_metadata, tags)
    if tags.get("unit") in _TAG_MM:
        step = _TAG_MM[tags["unit"]]
        return Scale({axis: step * tags[axis][1] / tags[axis][0] for axis in ("x", "y")}, "mm", tags=tags)
    return Scale(tags=tags)


def scale_tags(geometry: Geometry) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (resolution arguments for tifffile, facts for the description) that `file_scale` reads back exactly."""
    facts: dict[str, Any] = {"steps": {}}
    tags: dict[str, Any] = {}
    if geometry.spacing is not None:
        facts["steps"] = dict(zip(geometry.axes, (float(s) for s in geometry.spacing), strict=True))
    if geometry.units is not None:
        facts["unit"] = geometry.units
    if geometry.affine is not None:
        facts["affine"] = np.asarray(geometry.affine, np.float64).tolist()
    if geometry.value_range is not None:
        facts["value_range"] = list(geometry.value_range)
    if "z" in facts["steps"]:
        facts["spacing"] = facts["steps"]["z"]
    source = geometry.meta.get("tiff", {})
    if source and _agree(source, facts["steps"], geometry.units):
        tags = {"resolution": (tuple(source["x"]), tuple(source["y"])), "resolutionunit": source["unit"]}
    elif geometry.units in _MM and {"x", "y"} <= set(facts["steps"]):
        per_cm = [10.0 / (_MM[geometry.units] * facts["steps"][a]) for a in "xy" if facts["steps"][a] > 0]
        if len(per_cm) == 2:
            tags = {"resolution": tuple(per_cm), "resolutionunit": 3}
    return tags, facts


def _agree(tags: dict[str, Any], steps: dict[str, float], units: str | None) -> bool:
    """Tell whether the source's tags still hold: the pixel size is unknown otherwise, or the same."""
    step = _TAG_MM.get(tags["unit"], 1.0) / (_MM.get(units or "", 1.0) if tags["unit"] in _TAG_MM else 1.0)
    return all(math.isclose(steps.get(a, s), s, rel_tol=1e-6) for a in "xy" for s in [step * tags[a][1] / tags[a][0]])


def _resolution_tags(page: Any) -> dict[str, Any]:
    """Return the resolution tags as whole numbers, or nothing where they are absent or say nothing."""
    values = [page.tags.valueof(name) for name in ("XResolution", "YResolution")]
    if any(not isinstance(v, tuple) or len(v) != 2 or min(v) < 1 for v in values):
        return {}
    unit = int(page.tags.valueof("ResolutionUnit", default=2))
    if unit == 1 and values[0] == (1, 1) == values[1]:
        return {}
    return {"x": [int(n) for n in values[0]], "y": [int(n) for n in values[1]], "unit": unit}


def _imagej_scale(metadata: dict[str, Any], tags: dict[str, Any]) -> Scale:
    """Return ImageJ's scale: pixels per `unit` in the tags, slices `spacing` apart."""
    units = str(metadata.get("unit", "")).strip()
    if not tags or not units:
        return Scale(tags=tags)
    steps = {axis: tags[axis][1] / tags[axis][0] for axis in ("x", "y")}
    if "spacing" in metadata:
        steps["z"] = abs(float(metadata["spacing"]))
    return Scale(steps, _ALIASES.get(units, units), tags=tags)


def _ome_steps(xml: str) -> tuple[dict[str, float], str | None]:
    """Return the physical sizes of an OME image, where all of those given have one unit (default: um)."""
    steps, units = {}, set()
    for axis in "XYZ":
        size = re.search(rf'PhysicalSize{axis}="([0-9.eE+-]+)"', xml)
        if size:
            unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', xml)
            steps[axis.lower()] = float(size.group(1))
            units.add(_ALIASES.get(unit.group(1), unit.group(1)) if unit else "um")
    return (steps, units.pop()) if len(units) == 1 else ({}, None)
