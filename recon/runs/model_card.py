"""The model card of a training: what the prior is, what it was trained on, how well it denoises, what it samples.

Everything is written anew from the training, but for the sections that the card does not write itself ("Known
failures", and any other `## ` heading): they are kept as they stand in the file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon.io.atomic import check_writable, write_bytes
from recon.runs.training import TrainRequest, trained_denoiser
from recon.samplers.base import SeededNoise
from recon.samplers.integrate import sample_prior
from recon.schedules import poly_rho
from recon.training.config import DataFile, NetworkConfig, PhantomData, TrainConfig, VorticityData
from recon.training.loop import TrainState, load_state, unet_config
from recon.training.report import DenoisingRow
from recon.views.mosaic import mosaic
from recon.views.png import encode_png

STEPS, BATCH = 32, 8
OURS = ("Data", "Training", "Denoising", "Samples")
FAILURES = "Known failures"
NAMES = {"nl_means": "non-local means (oracle)"}


@dataclass(frozen=True)
class CardRequest:
    """Where a card and its pictures go, and how large its sheet of samples is."""

    card: Path
    pictures: Path
    samples: int = 32
    columns: int = 8

    def sheet(self, name: str) -> Path:
        """The file of the samples' sheet."""
        return self.pictures / f"{name}-samples.png"


def check_card(request: CardRequest, name: str, force: bool) -> None:
    """Refuse a card that could not be written, before any work is done. Raises as `check_writable` does."""
    check_writable([request.card, request.sheet(name)], force)


def write_card(
    training: TrainRequest,
    request: CardRequest,
    ema: int,
    rows: Sequence[DenoisingRow],
    losses: Sequence[float],
    command: str,
    force: bool,
) -> None:
    """Write the card of one EMA and its sheet of samples.

    rows: its denoising report.  losses: held-out, of every EMA.  command: shown as the one that prints the report.
    Raises as `check_card` does.
    """
    config = training.config
    check_card(request, config.name, force)
    state = load_state(training.folder, config)
    sheet = request.sheet(config.name)
    write_bytes(sheet, encode_png(samples_sheet(training, ema, request)), force)
    kept = kept_sections(request.card.read_text()) if request.card.is_file() else {}
    kept.setdefault(FAILURES, "None recorded yet.")
    link = os.path.relpath(sheet.resolve(), request.card.resolve().parent).replace(os.sep, "/")
    parts = [
        f"# {config.name}\n\n{config.description[0].upper()}{config.description[1:]}.\n\n{_facts(config, state, ema)}",
        f"## Data\n\n{_data(config)}",
        f"## Training\n\n{_training(config, state, losses, ema)}",
        f"## Denoising\n\n{_denoising(rows, command)}",
        f"## Samples\n\nUnconditional samples, {config.crop}x{config.crop}, Heun's method with {STEPS} steps of the "
        f"EDM grid, seeds not chosen:\n\n![Unconditional samples]({link})",
        *(f"## {title}\n\n{text}" for title, text in kept.items()),
    ]
    write_bytes(request.card, ("\n\n".join(parts) + "\n").encode(), force)


def samples_sheet(training: TrainRequest, ema: int, request: CardRequest) -> np.ndarray:
    """Return unconditional samples of one EMA, all of one window, as an RGB picture."""
    config = training.config
    shape = (config.network.in_channels, config.crop, config.crop)
    prior = trained_denoiser(training, ema)
    grid = poly_rho(STEPS, config.sigma_min, config.sigma_max).tolist()
    samples: list[np.ndarray] = []
    for start in range(0, request.samples, BATCH):
        noise = SeededNoise(config.seed, range(start, min(start + BATCH, request.samples)))
        samples.extend(sample_prior(prior, (len(noise.generators), *shape), grid, "heun", noise).numpy())
    return mosaic(samples, config.value_range, request.columns, 2 if config.crop <= 48 else 1)


def kept_sections(card: str) -> dict[str, str]:
    """Return the sections of a card that `write_card` does not write itself: title -> text."""
    pieces = card.replace("\r\n", "\n").split("\n## ")[1:]
    sections = {title.strip(): text.strip() for title, _, text in (piece.partition("\n") for piece in pieces)}
    return {title: text for title, text in sections.items() if title not in OURS}


def _facts(config: TrainConfig, state: TrainState, ema: int) -> str:
    low, high = config.value_range
    multiple = unet_config(config).multiple
    return _table(
        ("", ""),
        [
            ("network", _network(config.network, state)),
            ("preconditioning", f"EDM, sigma_data {config.sigma_data:g}"),
            ("sizes", f"trained at {config.crop}x{config.crop}; any size (padded to a multiple of {multiple})"),
            ("value range", f"{low:g} to {high:g}: {config.data.scaling}"),
            (
                "noise levels",
                f"trained with ln sigma ~ N({config.log_sigma_mean:g}, {config.log_sigma_std:g}^2), "
                f"{config.sigma_min:g} to {config.sigma_max:g}; higher ones are evaluated at {config.sigma_max:g}",
            ),
            ("average", f"exponential, decay {config.ema[ema]:g}"),
            ("licence of the weights", "Apache-2.0; credits below"),
        ],
    )


def _network(network: NetworkConfig, state: TrainState) -> str:
    millions = sum(p.numel() for p in state.network.parameters()) / 1e6
    attention = f"self-attention with {network.attention} heads at the last" if network.attention else "no attention"
    edges = "periodic edges" if network.padding == "circular" else "zeros beyond the edges"
    side = network.unshuffle
    stem = f" on {side}x{side} pixel-unshuffled input" if side > 1 else ""
    return (
        f"UNet{stem}, widths {', '.join(map(str, network.channels))}, residual blocks "
        f"{', '.join(map(str, network.blocks))} a level, {attention}, {edges}; {millions:.2f} M parameters"
    )


def _data(config: TrainConfig) -> str:
    data = config.data
    if isinstance(data, PhantomData | VorticityData):
        parts = [f"Trained on {data.origin}."]
    else:
        parts = ["Trained on (share: how often a crop is drawn from it):", _files(data.files)]
    if data.test:
        parts += ["Held out, never trained on:", _files(data.test, shares=False)]
    parts.append(f"SHA-256 of every file: `recon/training/configs/{config.name}.toml`, and inside the weights.")
    return "\n\n".join(parts)


def _files(entries: Sequence[DataFile], shares: bool = True) -> str:
    total = sum(entry.weight for entry in entries)
    rows = [
        (entry.source, entry.credit or "", entry.licence, *((f"{entry.weight / total:.1%}",) if shares else ()))
        for entry in entries
    ]
    return _table(("file", "credit", "licence", *(("share",) if shares else ())), rows)


def _training(config: TrainConfig, state: TrainState, losses: Sequence[float], ema: int) -> str:
    sweep = ", ".join(
        f"{loss:.4f} (decay {decay:g}{', this one' if index == ema else ''})"
        for index, (decay, loss) in enumerate(zip(config.ema, losses, strict=True))
    )
    return (
        f"`recon train {config.name}`: {state.step} steps of {config.batch} crops of {config.crop}x{config.crop} "
        f"({state.step * config.batch} crops), {state.seconds / 3600:.2f} h on two shared CPU cores. Loss on held-out "
        f"crops (EDM-weighted) of each average: {sweep}.\n\nTraining loss, mean since the line before:\n\n"
        + _loss_table(state.history)
    )


def _loss_table(history: Sequence[dict[str, float]], lines: int = 10) -> str:
    """Return the loss at about geometrically growing steps."""
    last = len(history)
    ends = sorted({round(last ** ((k + 1) / lines)) for k in range(lines)}) if history else []
    rows, start = [], 0
    for end in ends:
        mean = float(np.mean([row["loss"] for row in history[start:end]]))
        rows.append((f"{history[end - 1]['step']:.0f}", f"{history[end - 1]['hours']:.2f}", f"{mean:.4f}"))
        start = end
    return _table(("step", "hours", "loss"), rows)


def _denoising(rows: Sequence[DenoisingRow], command: str) -> str:
    images = len({row.image for row in rows})
    which = "the mean over" if images > 3 else "for each of"
    head = (
        f"PSNR in dB for the width of the value range, {which} {images} held-out images. A baseline has the setting "
        f"that is best on the truth (oracle); the gain is over total variation. Printed by\n`{command}`:"
    )
    extra = sorted({name for row in rows for name in row.baselines})
    table = []
    for sigma in sorted({row.sigma for row in rows}):
        here = [row for row in rows if row.sigma == sigma]
        columns = [[r.noisy for r in here], [r.tv_oracle for r in here]]
        columns += [[r.baselines[name] for r in here] for name in extra]
        columns += [[r.prior for r in here], [r.gain for r in here]]
        table.append((f"{sigma:g}", *(_values(column) for column in columns)))
    names = ("sigma", "noisy", "total variation (oracle)", *(NAMES.get(n, n) for n in extra), "this prior", "gain")
    return f"{head}\n\n{_table(names, table)}"


def _values(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f}" if len(values) > 3 else " / ".join(f"{v:.1f}" for v in values)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
