"""Device, threads and samples per chunk."""

from __future__ import annotations

import os

import torch

from recon.errors import ResourceError


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
