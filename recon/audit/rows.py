"""One row of the audit's table: a method with some settings on a case, and what came out; JSON-able both ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recon.audit.statistics import MEAN_BAR, STD_BAR, Statistics

DONE, SKIPPED, DIVERGED = "done", "skipped", "diverged"
COLUMNS = (
    "method", "settings", "case", "bars", "mean bias %", "std / exact (low to high frequency)", "covariance %",
    "sliced W2", "coverage 50/90/95 %", "residual", "data use", "NFE", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What was run, and its result.

    kind, source, params: the settings (`recon.audit.settings`).  status: "done", "skipped" or "diverged", with the
    reason.  statistics: as JSON, where there are samples.  within: whether the bars are met.
    """

    method: str
    kind: str
    source: str
    params: dict[str, Any]
    case: str
    samples: int
    seed: int
    status: str
    linear_gaussian: bool
    reason: str = ""
    statistics: dict[str, Any] | None = None
    within: bool = False
    nfe: int = 0
    backprops: int = 0
    operator_calls: int = 0
    seconds: float = 0.0

    @property
    def key(self) -> tuple[Any, ...]:
        """What must agree for a row to stand for another run."""
        return self.method, self.kind, sorted(self.params.items()), self.case, self.samples, self.seed

    def cells(self) -> tuple[str, ...]:
        """Return the row's text under `COLUMNS`, short, with standard errors where they matter."""
        head = (self.method, self.kind, self.case)
        if self.statistics is None:
            return (*head, self.status, "", self.reason, *[""] * (len(COLUMNS) - 6))
        s = self.statistics
        std = " ".join(f"{e['value']:.3f}±{e['error']:.3f}" for e in s["std"].values())
        cover = "/".join(f"{100 * e['value']:.1f}" for e in s["coverage"].values())
        return (
            *head,
            "met" if self.within else "missed",
            f"{100 * s['mean']['value']:.1f}±{100 * s['mean']['error']:.1f}",
            std,
            f"{100 * s['covariance']['value']:.0f} ({100 * s['covariance']['floor']:.0f})",
            f"{s['wasserstein']['value']:.3f} ({s['wasserstein']['floor']:.3f})",
            cover,
            f"{s['residual']['value']:.2f} ({s['residual']['floor']:.2f})",
            f"{s['data_use']:.2f}",
            str(self.nfe),
            f"{self.seconds:.1f}",
        )


def judged(statistics: Statistics) -> dict[str, Any]:
    """Return the fields of a row that come from its statistics."""
    return {"statistics": statistics.json(), "within": statistics.within}


def bars() -> dict[str, float]:
    """Return the bars, for the report."""
    return {"mean": MEAN_BAR, "std": STD_BAR}
