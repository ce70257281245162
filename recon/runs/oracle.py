"""A baseline at the weight that knowing the truth would choose: the strongest opponent that it could be."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from recon.baselines.oracle import oracle_weight
from recon.data import Volume, to_stack
from recon.errors import ConfigError
from recon.runs.methods import method_class
from recon.runs.plan import Plan
from recon.runs.problem import scale_problem
from recon.runs.volumes import as_slices, parts

# relative to the image's range; the oracle refines and extends these
WEIGHTS = {
    "tv": (3e-4, 1e-3, 3e-3, 1e-2),
    "wavelet": (3e-4, 1e-3, 3e-3, 1e-2),
    "tikhonov": (1e-3, 1e-2, 1e-1, 1.0),
}


def oracle_baseline(plan: Plan, truth: Volume, name: str = "tv") -> tuple[np.ndarray, float]:
    """Return a baseline at the weight that is best on the truth, (N, C, Y, X) in image units, and that weight.

    plan: of any classical method; of this one, its other settings hold.  name: tv, wavelet or tikhonov.  The weight is
    that of the last item, in the problem's units. Raises ConfigError for a baseline without a weight.
    """
    if name not in WEIGHTS:
        raise ConfigError(
            f"baseline '{name}' has no weight for an oracle to choose", f"choose from {', '.join(WEIGHTS)}"
        )
    a, b = plan.window.affine(plan.value_range)
    kind, stack = method_class(name), torch.from_numpy(to_stack(truth))
    method: Any = plan.method if isinstance(plan.method, kind) else kind()
    images: list[np.ndarray] = []
    weight = 0.0
    for part in parts(plan.input, method):
        scaled = scale_problem(part.operator, torch.from_numpy(part.y), plan.input.noise, a, b, norm=plan.norm)
        wanted = stack[part.first : part.first + part.images]
        target = ((wanted.transpose(0, 1)[None] if part.is_volume else wanted) - b) / a
        best = oracle_weight(partial(replace, method), scaled.problem, target.to(plan.operator.in_dtype), WEIGHTS[name])
        images.extend(as_slices(a * best.result.samples + b)[0].numpy())
        weight = best.weight
    return np.stack(images), weight
