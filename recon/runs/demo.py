"""`recon demo`: simulate from shipped data, classical baselines, reconstruct, score, draw the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from recon.config.schema import Config, MethodSection
from recon.data import Measurement, Volume, from_stack, to_stack
from recon.io.atomic import check_writable, write_bytes
from recon.io.registry import read_volume, write_measurement, write_volume
from recon.metrics.evaluate import evaluate
from recon.metrics.protocols import find_protocol
from recon.runs.execute import execute
from recon.runs.oracle import oracle_baseline
from recon.runs.outputs import output_names
from recon.runs.plan import make_plan
from recon.runs.reconstruct import OnProgress, RunRequest, reconstruct
from recon.runs.simulate import simulate
from recon.views.comparison import Compared, comparison_png

SAMPLE = "brain_slice.nii.gz"


@dataclass(frozen=True)
class DemoRow:
    """One reconstruction of the comparison and its scores."""

    name: str
    psnr: float | None
    ssim: float | None
    seconds: float | None


@dataclass(frozen=True)
class DemoReport:
    """Scores, their protocol, and the files that were written."""

    rows: list[DemoRow]
    protocol: str
    residual: float
    outputs: dict[str, str]


def demo_names(folder: Path, samples: int) -> dict[str, Path]:
    """Return the files that a demo writes, by role."""
    run = output_names(folder / "recon.nii.gz", samples)
    names = {"truth": folder / "truth.nii.gz", "measurement": folder / "measurement.h5", "image": run.image}
    if run.std is not None and run.samples is not None:
        names |= {"std": run.std, "samples": run.samples}
    return names | {"sidecar": run.sidecar, "tv": folder / "tv-oracle.nii.gz", "picture": folder / "comparison.png"}


def demo(
    config: Config,
    preset: str,
    folder: Path,
    truth_file: Path | None,
    force: bool,
    command: tuple[str, ...],
    say: Callable[[str], None],
    on_progress: OnProgress | None,
) -> DemoReport:
    """Run the whole chain on the shipped brain slice, or on `truth_file`, into `folder`.

    The total-variation weight is chosen on the truth (an oracle), so that baseline is better than a user could have it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = demo_names(folder, config.run.samples)
    check_writable(names.values(), force)
    truth = _truth(truth_file)
    measurement = simulate(truth, config)
    write_volume(names["truth"], truth, force=force)
    write_measurement(names["measurement"], measurement, force=force)
    say(f"simulated {config.operator.kind}: {names['measurement']}")
    direct, tv, tv_seconds = baselines(config, measurement, truth)
    write_volume(names["tv"], from_stack(tv.astype(np.float32), truth.geometry), force=force)
    say("classical baselines done")
    request = RunRequest(
        names["measurement"], names["image"], config, preset, truth=names["truth"], force=force, command=command
    )
    report = reconstruct(request, lambda plan: None, on_progress)
    ours = to_stack(read_volume(names["image"]))
    protocol, reference = find_protocol(config.metrics.protocol), to_stack(truth)
    declared = truth.geometry.value_range
    first = _first_sample(names) if config.run.samples > 1 else None
    method = config.method.name.upper()
    compared = [
        Compared(_direct_name(config), direct),
        Compared("TV (oracle)", tv),
        *([Compared(f"{method}, one sample", first)] if first is not None else []),
        Compared(f"{method}, mean of {config.run.samples}" if first is not None else method, ours),
    ]
    seconds = {1: tv_seconds, len(compared) - 1: report.statistics["seconds"]}
    rows = []
    for i, entry in enumerate(compared):
        scores = evaluate(entry.image, reference, protocol, declared)
        rows.append(DemoRow(entry.name, scores["psnr"], scores["ssim"], seconds.get(i)))
    std = to_stack(read_volume(names["std"])) if "std" in names else None
    captions = [f"{r.psnr:.2f} dB, SSIM {r.ssim:.3f}" for r in rows]
    write_bytes(names["picture"], comparison_png(reference, compared, captions, std, flip_rows=True), force=force)
    outputs = {role: str(path) for role, path in names.items()}
    return DemoReport(rows, protocol.name, float(report.metrics["residual"]), outputs)


def baselines(config: Config, measurement: Measurement, truth: Volume) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the direct reconstruction and oracle TV (N, C, Y, X), in image units, and TV's seconds at its weight."""
    direct = "fbp" if config.operator.kind == "ct" else "adjoint"
    plan = make_plan(_with_method(config, direct), measurement)
    shown = execute(plan).mean
    tv, weight = oracle_baseline(plan, truth)
    timed = make_plan(_with_method(config, "tv", weight=weight), measurement)
    return shown, tv, execute(timed).seconds


def _truth(file: Path | None) -> Volume:
    if file is not None:
        return read_volume(file)
    with as_file(files("recon.sample_data") / SAMPLE) as path:
        return read_volume(path)


def _with_method(config: Config, name: str, **settings: Any) -> Config:
    run = config.run.model_copy(update={"samples": 1})
    return config.model_copy(update={"method": MethodSection(name=name, **settings), "run": run})


def _direct_name(config: Config) -> str:
    return {"mri": "zero-filled", "ct": "FBP"}.get(config.operator.kind, "adjoint")


def _first_sample(names: dict[str, Path]) -> np.ndarray:
    volume = read_volume(names["samples"], axes="x,y,z,n")
    axis = volume.geometry.axes.index("n")
    array = volume.array.take([0], axis=axis)
    return to_stack(Volume(array, volume.geometry))
