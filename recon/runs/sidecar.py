"""The JSON sidecar: everything that is needed to know, trust and repeat a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recon import __version__
from recon.priors.catalog import is_file, prior_path, weights_sha256
from recon.runs.execute import Outcome
from recon.runs.plan import Plan
from recon.runs.provenance import portable_command, portable_path, versions

SIDECAR_VERSION = 1


def run_sidecar(
    plan: Plan,
    outcome: Outcome,
    command: list[str],
    folder: Path,
    sources: dict[str, dict[str, str]],
    preset: str,
    metrics: dict[str, Any] | None,
    protocol: dict[str, Any] | None,
    outputs: dict[str, str],
    started: str,
    status: str = "ok",
) -> dict[str, Any]:
    """Return the sidecar of `recon run`; sources: role -> {file, sha256, and for the input axes where given}."""
    weights = None
    config = plan.config.model_dump(mode="json")
    if is_file(plan.config.prior.name):
        named = Path(plan.config.prior.name)
        # a folder is told by its slash
        config["prior"]["name"] = portable_path(named, folder) + ("/" if named.is_dir() else "")
    if plan.prior is not None:
        path = prior_path(plan.config.prior.name)
        weights = {"name": plan.prior.info.name, "sha256": weights_sha256(path)}
        if plan.config.prior.auxiliary is not None:
            weights["auxiliary_sha256"] = weights_sha256(prior_path(plan.config.prior.auxiliary))
    cite = [c for c in (plan.config.citation, type(plan.method).citation) if c]
    return {
        "GeneratedBy": [{"Name": "recon", "Version": __version__}],
        "Sources": sources,
        "Recon": {
            "SidecarVersion": SIDECAR_VERSION,
            "Command": portable_command(command, folder),
            "Preset": preset,
            "Config": config,
            "Plan": plan.describe(),
            "Weights": weights,
            "Seed": plan.config.run.seed,
            "SampleIndices": list(range(plan.samples)),
            "Device": str(plan.device),
            "Threads": plan.threads,
            "Chunk": plan.chunk,
            "Backend": plan.backend,
            "Versions": versions(plan.backend),
            "Started": started,
            "Seconds": round(outcome.seconds, 3),
            "NFE": outcome.nfe,
            "Backprops": outcome.backprops,
            "OperatorCalls": outcome.operator_calls,
            "PeakMemoryMB": round(outcome.peak_memory_mb, 1),
            "Status": status,
            "EnsembleSpread": outcome.ensemble_spread,
            "Residual": {"samples": outcome.residual, "mean": outcome.residual_of_mean},
            "Metrics": metrics,
            "Protocol": protocol,
            "Outputs": outputs,
            "Citations": cite,
        },
    }
