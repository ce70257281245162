"""Operator files whose arrays may be checkpoints: the network of a learned blur."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recon.data import OperatorSpec
from recon.errors import ConfigError
from recon.io.operator_file import read_operator_file
from recon.operators.kernel_network import MARKS
from recon.operators.learned_blur import packed
from recon.priors.published.reader import read_checkpoint
from recon.priors.published.states import find_state


def load_operator(path: Path) -> OperatorSpec:
    """Return the operator that a file describes, as `recon.io.operator_file`, with arrays from checkpoints as well."""
    return read_operator_file(path, checkpoint_array)


def checkpoint_array(path: Path) -> np.ndarray:
    """Return a checkpoint as an array: of one tensor itself, of a learned blur's network its packed tensors.

    The restricted reader executes nothing. Raises as it does: InputError for damaged files, ResourceError where there
    is none; ConfigError for another network.
    """
    content = read_checkpoint(path)
    if isinstance(content, torch.Tensor):
        whole = content.detach()
        return (whole.float() if whole.is_floating_point() else whole).numpy()
    state = find_state(content, MARKS)
    if state is None:
        raise ConfigError(
            f"{path.name} holds no network of a learned blur", f"expected tensors such as {' and '.join(MARKS)}"
        )
    return packed(state.tensors, path.name)
