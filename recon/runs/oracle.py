"""A baseline at the weight that knowing the truth would choose: the strongest opponent that it could be."""

from __future__ import annotations

import numpy as np
import torch

from recon.baselines.oracle import oracle_weight
from recon.data import Volume, to_stack
from recon.errors import ConfigError
from recon.runs.methods import method_class
from recon.runs.plan import Plan
from recon.runs.problem import scale_problem

# relative to the image's range; the oracle refines and extends these
WEIGHTS = {
    "tv": (3e-4, 1e-3, 3e-3, 1e-2),
    "wavelet": (3e-4, 1e-3, 3e-3, 1e-2),
    "tikhonov": (1e-3, 1e-2, 1e-1, 1.0),
}


def oracle_baseline(plan: Plan, truth: Volume, name: str = "tv") -> tuple[np.ndarray, float]:
    """Return a baseline at the weight that is best on the truth, (N, C, Y, X) in image units, and that weight.

    plan: of any classical method.  name: tv, wavelet or tikhonov.  The weight is that of the last item, in the
    problem's units. Raises ConfigError for a baseline without a weight.
    """
    if name not in WEIGHTS:
        raise ConfigError(
            f"baseline '{name}' has no weight for an oracle to choose", f"choose from {', '.join(WEIGHTS)}"
        )
    a, b = plan.window.affine(plan.value_range)
    images, weight = [], 0.0
    for i, image in enumerate(to_stack(truth)):
        y, operator = plan.input.item(i)
        scaled = scale_problem(operator, torch.from_numpy(y), plan.input.noise, a, b, norm=plan.norm)
        target = torch.from_numpy((image[None] - b) / a).to(plan.operator.in_dtype)
        best = oracle_weight(method_class(name), scaled.problem, target, WEIGHTS[name])
        images.append((a * best.result.samples[0] + b).numpy())
        weight = best.weight
    return np.stack(images), weight
