"""The settings that a method is audited at: those of its presets, and those tuned for exactness.

A file settings/METHOD.toml has a table [tuned] of settings for every case, with tables [tuned.FAMILY] and [tuned.KIND]
that go before it (gaussian, mixture, scalar; gaussian-inpaint, scalar-clip, ...), and a table [curve]: one setting and
the values along which the method should converge.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from recon.audit.catalog import CaseInfo, case_info
from recon.config.presets import load_preset, preset_names

PRESET, TUNED, GIVEN, CURVE = "preset", "tuned", "given", "curve"
# small cases on which a curve takes seconds a point
CURVE_CASES = ("mixture-2", "gaussian-inpaint-16")


@dataclass(frozen=True)
class Settings:
    """A method's settings for one case: which ("preset", "tuned", "given"), where they come from, and the values."""

    kind: str
    source: str
    params: dict[str, Any]


def preset_settings(method: str, info: CaseInfo) -> Settings:
    """Return the settings of the preset PROBLEM-METHOD, or the method's defaults where there is none."""
    name = f"{info.problem}-{method}"
    if name not in preset_names({}):
        return Settings(PRESET, "defaults", {})
    section = load_preset(name, {}).layer.values["method"]
    assert isinstance(section, dict)
    return Settings(PRESET, f"preset {name}", {k: v for k, v in section.items() if k != "name"})


def tuned_settings(method: str, info: CaseInfo) -> Settings | None:
    """Return the settings tuned for exactness, or None where a method has none."""
    content = _read(method).get(TUNED)
    if content is None:
        return None
    params = _flat(content)
    for table in (info.family, info.kind):
        params |= content.get(table, {}) if isinstance(content.get(table), dict) else {}
    return Settings(TUNED, f"settings/{method}.toml", params)


def curve_settings(method: str) -> list[tuple[str, Settings]]:
    """Return (case, settings) of each point of a method's convergence curve; none where it has no curve.

    One setting runs through its values (or tables of it and others); the rest are of the table [curve], else tuned.
    """
    content = _read(method).get(CURVE)
    if content is None:
        return []
    own = {key: value for key, value in content.items() if key not in ("setting", "values", "cases")}
    points = []
    for case in content.get("cases", CURVE_CASES):
        tuned = tuned_settings(method, case_info(case))
        base = {**(tuned.params if tuned else {}), **own}
        for value in content["values"]:
            point = value if isinstance(value, dict) else {content["setting"]: value}
            points.append((case, Settings(CURVE, content["setting"], {**base, **point})))
    return points


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if not isinstance(value, dict)}


def _read(method: str) -> dict[str, Any]:
    path = files("recon.audit") / "settings" / f"{method}.toml"
    return tomllib.loads(path.read_text()) if path.is_file() else {}
