"""`recon doctor`: what this installation can do, and what is missing."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .exits import RESOURCES
from .options import Json
from .output import print_json, print_table, text_of

GB = 1e9


@dataclass(frozen=True)
class Fact:
    """One finding; `ok` is False where something essential is missing, with the remedy in `hint`."""

    name: str
    value: Any
    ok: bool = True
    hint: str = ""


def doctor(
    bench: Annotated[bool, typer.Option("--bench", help="Time the network against the machine's peak.")] = False,
    as_json: Json = False,
) -> None:
    """Report on this installation: versions, devices, memory, weights.

    Exits with 7 if something essential is missing.
    """
    facts = [*_program(), *_computation(), *_machine(), *_weights()]
    healthy = all(fact.ok for fact in facts)
    speed = _bench() if bench and healthy else None
    if as_json:
        found = {"ok": healthy, "facts": {fact.name: vars(fact) for fact in facts}}
        print_json(found if speed is None else {**found, "bench": speed})
    else:
        rows = [
            (f.name, "ok" if f.ok else "MISSING", text_of(f.value) + (f": {f.hint}" if f.hint else "")) for f in facts
        ]
        print_table(("what", "state", "value"), rows)
        if speed is not None:
            _print_speed(speed)
    if not healthy:
        raise typer.Exit(RESOURCES)


def _bench() -> dict[str, Any]:
    """Return the speed of the first shipped prior's network and the machine's peak, as JSON-able facts."""
    from recon.priors.catalog import prior_path, shipped_priors
    from recon.priors.open import open_prior
    from recon.runs.bench import bench, installed_backends
    from recon.runs.device import choose_threads

    choose_threads(0)
    prior = open_prior(prior_path(shipped_priors()[0]))
    found = bench(prior, installed_backends())
    return {
        "prior": prior.info.name,
        "threads": found.threads,
        "peak_gflops": found.peak_gflops,
        "peak_library": found.library,
        "best_ratio": found.best.ratio,
        "speeds": [vars(speed) for speed in found.speeds],
    }


def _print_speed(found: dict[str, Any]) -> None:
    def row(speed: dict[str, Any]) -> tuple[str, ...]:
        size, best = "x".join(map(str, speed["size"])), f"{speed['ratio']:.0%}"
        return size, speed["backend"], f"{1e3 * speed['seconds']:.1f}", f"{speed['gflops']:.1f}", best

    columns = (f"{found['prior']}, {found['threads']} threads", "backend", "ms", "GFLOP/s", "of the peak")
    peak = ("matrix products", found["peak_library"], "", f"{found['peak_gflops']:.1f}", "100%")
    print_table(columns, [peak, *(row(speed) for speed in found["speeds"])])


def _backends() -> list[Fact]:
    """Return the version of ONNX Runtime, which is optional."""
    from recon.priors.backends import missing_packages

    missing = missing_packages("onnxruntime")
    if missing:
        return [Fact("onnxruntime", "not installed", hint="optional: pip install 'diffusion-recon[onnx]'")]
    from importlib.metadata import version

    return [Fact("onnxruntime", version("onnxruntime"))]


def _program() -> list[Fact]:
    from recon import __version__

    about = {
        "system": f"{platform.system()} {platform.machine()}",
        "recon": __version__,
        "python": platform.python_version(),
    }
    return [*(Fact(name, value) for name, value in about.items()), *_packages()]


def _packages() -> list[Fact]:
    """Return the version of every package that this program cannot do without."""
    from importlib.metadata import PackageNotFoundError, requires, version

    facts = []
    for requirement in requires("diffusion-recon") or []:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            facts.append(Fact(name, version(name)))
        except PackageNotFoundError:
            facts.append(Fact(name, "not installed", False, f"pip install '{requirement}'"))
    return facts


def _computation() -> list[Fact]:
    try:
        import torch
    except (ImportError, OSError) as err:
        return [Fact("torch import", str(err).splitlines()[0], False, "install torch again")]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    libraries = {"MKL": torch.backends.mkl, "oneDNN": torch.backends.mkldnn}
    return [
        Fact("kernels", ["torch", *(name for name, library in libraries.items() if library.is_available())]),
        *_projectors(["cpu", *(["cuda"] if gpus else [])]),
        *_backends(),
        Fact("threads", f"{torch.get_num_threads()} of {_cores()} cores"),
        Fact("CPU features", torch.backends.cpu.get_cpu_capability()),
        Fact("devices", ["cpu", *(f"cuda:{i} {name}" for i, name in enumerate(gpus))]),
    ]


def _projectors(devices: list[str]) -> list[Fact]:
    """Return which kernels of tomography each device uses, and why."""
    import torch

    from recon.errors import ReconError
    from recon.kernels.dispatch import choose, unavailable

    without = unavailable("triton", torch.device(devices[-1]))
    facts = [Fact("triton", "not used" if without else "used on a GPU", hint=without)]
    for device in devices:
        try:
            choice = choose(torch.device(device))
            facts.append(Fact(f"projectors on {device}", choice.backend, hint=choice.reason))
        except ReconError as err:
            facts.append(Fact(f"projectors on {device}", err.message, False, err.hint or ""))
    return facts


def _machine() -> list[Fact]:
    page = os.sysconf("SC_PAGE_SIZE")
    memory, free = (os.sysconf(name) * page / GB for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    cache = cache_folder(os.environ)
    parent = next(p for p in (cache, *cache.parents) if p.exists())
    usable = parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
    return [
        Fact("memory", f"{memory:.1f} GB, {free:.1f} GB free"),
        Fact("disk", f"{shutil.disk_usage('.').free / GB:.1f} GB free here"),
        Fact("cache", str(cache), usable, "" if usable else "not writable; set RECON_CACHE_DIR to a folder that is"),
    ]


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return RECON_CACHE_DIR, else the folder `recon` of the user's cache."""
    own = environ.get("RECON_CACHE_DIR")
    if own:
        return Path(own).absolute()
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "recon"


def _weights() -> list[Fact]:
    from recon.priors.catalog import check_weights

    checks = check_weights()
    facts = [
        Fact(f"prior {check.name}", check.detail, check.ok, "" if check.ok else "install recon again")
        for check in checks
    ]
    return facts or [Fact("priors", "none", False, "this installation ships no weights; install recon again")]


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
