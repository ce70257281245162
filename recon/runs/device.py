"""Device, threads and samples per chunk."""

from __future__ import annotations

import os

import torch

from recon.errors import ResourceError
from recon.priors.base import Denoiser

# of the memory of a GPU that is free beside the volumes, what the network may take
NETWORK_SHARE = 0.5
# arrays of a volume's size that a method holds at once
VOLUMES = 14
MOST_SLICES = 64


def choose_device(name: str) -> torch.device:
    """Return the device; "auto" takes a GPU if there is one. Raises ResourceError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("no GPU is available")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as err:
        reason = str(err).splitlines()[0]
        raise ResourceError(
            f"device '{name}' cannot be used: {reason}", "use --device cpu, or see: recon doctor"
        ) from err
    return device


def choose_threads(wanted: int) -> int:
    """Set and return the number of CPU threads; 0 takes every core this process may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = wanted or available
    torch.set_num_threads(count)
    return count


def choose_chunk(wanted: int, samples: int, device: torch.device) -> int:
    """Return how many samples go through the network together.

    On a CPU one at a time is as fast as several and needs the least memory; on a GPU all, up to 16.
    """
    if wanted:
        return min(wanted, samples)
    return 1 if device.type == "cpu" else min(samples, 16)


def choose_slices(
    wanted: int, slices: int, prior: Denoiser, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> int:
    """Return how many slices of a volume go through the network together.

    prior: of slices of `shape` (C, Y, X) and `dtype`.  On a CPU one, as of samples; on a GPU as many as the free memory
    holds beside the volume, measured on one slice.
    """
    if wanted:
        return min(wanted, slices)
    if device.type == "cpu":
        return 1
    volume = slices * torch.Size(shape).numel() * dtype.itemsize
    return slices_that_fit(
        torch.cuda.mem_get_info(device)[0], VOLUMES * volume, _measured(prior, shape, dtype, device), slices
    )


def slices_that_fit(free: int, volumes: int, each: int, slices: int) -> int:
    """Return how many slices fit into `free` bytes beside `volumes`, for `each` that one takes: 1 to 64."""
    return max(1, min(int(NETWORK_SHARE * (free - volumes) / max(each, 1)), slices, MOST_SLICES))


@torch.no_grad()
def _measured(prior: Denoiser, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> int:
    """Return the bytes that one network evaluation takes beyond what it finds taken."""
    moved = prior.to(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    moved(torch.zeros(1, *shape, dtype=dtype, device=device), 1.0)
    return torch.cuda.max_memory_allocated(device) - before
