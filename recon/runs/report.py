"""`recon run --report`: one page per run, with inputs, settings, pictures, residuals, scores and citations."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np

from recon.data import Volume, to_stack
from recon.runs.execute import Outcome
from recon.runs.plan import Plan
from recon.runs.view import first_row_is_bottom
from recon.views.colour import Scale, grey
from recon.views.comparison import Compared, comparison
from recon.views.curve import curve_svg
from recon.views.images import error_scale, image_panel, shared_limit, shared_window, std_map
from recon.views.layout import Row, compose
from recon.views.page import Section, figure, page, picture, table, verbatim
from recon.views.sheet import sheet, view_volume

MOST_SAMPLES = 8
NOT_MEDICAL = "Results are not for diagnostic use."


def report_page(plan: Plan, outcome: Outcome, truth: Volume | None, sidecar: dict[str, Any]) -> str:
    """Return the page of a run; everything that it tells is in the sidecar, but for the pictures and the curve."""
    facts = sidecar["Recon"]
    item, flip = outcome.samples.shape[1] // 2, first_row_is_bottom(plan.input.measurement.geometry)
    name = facts["Outputs"]["image"]
    sections = [Section("Result", _result(facts)), Section("Pictures", _pictures(outcome, truth, item, flip, facts))]
    if len([v for v in outcome.residual_curve if v > 0]) > 1:
        curve = curve_svg(outcome.residual_curve, "step", "residual", level=1.0)
        caption = "||y - A x0|| of the denoised image over its expected value; dashed: what the noise alone gives"
        sections.append(Section("Residual at each step", figure(curve, caption)))
    sections += [
        Section("Input", table({role: f"{s['file']}  sha256 {s['sha256']}" for role, s in sidecar["Sources"].items()})),
        Section("Settings", table(_settings(facts))),
        Section("Notices", verbatim("\n".join(plan.notices) or "none")),
        Section("Repeat", verbatim(shlex.join(facts["Command"]) + f"\nrecon rerun {name}.json AGAIN")),
        Section("Cite", verbatim("\n\n".join(facts["Citations"]) or "none")),
    ]
    made = f"Made by recon {sidecar['GeneratedBy'][0]['Version']}, {facts['Started']}. {NOT_MEDICAL}"
    lead = f"{facts['Config']['method']['name']} on {facts['Plan']['operator']['kind']}, preset {facts['Preset']}"
    return page(f"Reconstruction {name}", lead, sections, made)


def _result(facts: dict[str, Any]) -> str:
    rows: dict[str, Any] = {"status": facts["Status"], **(facts["Metrics"] or {})}
    if facts["Protocol"] is not None:
        rows["protocol"] = facts["Protocol"]
    rows |= {"residual of samples": facts["Residual"]["samples"], "residual of the mean": facts["Residual"]["mean"]}
    rows |= {"samples": facts["Plan"]["samples"], "network evaluations": facts["NFE"], "seconds": facts["Seconds"]}
    return table(rows | {"peak memory, MB": facts["PeakMemoryMB"], "device": facts["Device"]})


def _settings(facts: dict[str, Any]) -> dict[str, Any]:
    config, weights = facts["Config"], facts["Weights"]
    used = {name: config[name] for name in ("operator", "noise", "method", "scaling", "run")}
    return used | {"prior": f"{weights['name']}  sha256 {weights['sha256']}" if weights else "none"}


def _pictures(outcome: Outcome, truth: Volume | None, item: int, flip: bool, facts: dict[str, Any]) -> str:
    mean, many = outcome.mean, len(outcome.samples) > 1
    std = outcome.std if many else None
    parts = []
    if truth is not None:
        caption = f"{_number(facts['Metrics'].get('psnr'))} dB, SSIM {_number(facts['Metrics'].get('ssim'), 3)}"
        drawn = comparison(to_stack(truth), [Compared("reconstruction", mean)], [caption], std, flip, item)
        protocol = f"Protocol {facts['Protocol']['name']}."
        parts.append(picture(drawn, f"Truth and reconstruction in one window; errors below. {protocol}"))
    elif std is not None:
        parts.append(picture(_with_std(mean[item], std[item], flip), "Mean and standard deviation over samples."))
    if (truth is None and std is None) or len(mean) > 1:
        parts.append(picture(view_volume(mean, flip_rows=flip), "The reconstruction."))
    if many:
        shown = outcome.samples[:MOST_SAMPLES, item]
        titles = [f"sample {i}" for i in range(len(shown))]
        drawn = sheet(list(shown), titles, [], shared_window(mean[item]), columns=4, flip_rows=flip)
        parts.append(picture(drawn, "Samples: each is a plausible image; what differs is not known from the data."))
    return "\n".join(parts)


def _with_std(mean: np.ndarray, std: np.ndarray, flip: bool) -> np.ndarray:
    window, limit = shared_window(mean), shared_limit([std])
    scales: tuple[Scale, ...] = (grey(*window), error_scale(limit))
    panels = [image_panel(mean, window, flip), std_map(std, limit, flip)]
    return compose([Row(panels, ["mean", "std over samples"], (), scales)])


def _number(value: float | None, digits: int = 2) -> str:
    return "inf" if value is None else f"{value:.{digits}f}"
