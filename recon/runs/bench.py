"""How fast this machine evaluates a prior's network, against its peak in float32 matrix products.

Every round measures matrix products and each backend at each size in turn, so that what else the machine does falls on
all of them. Reported are the network's medians over the rounds, and the fastest product, which is what a peak is: on a
busy machine the ratios are too low.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from recon.priors.backends import missing_packages, with_backend
from recon.priors.base import Denoiser

SIZES = ((96, 96), (128, 128), (176, 208), (256, 256))
# large enough that the caches are used as well as they can be, small enough to take a moment
MATRIX = 2048


@dataclass(frozen=True)
class Speed:
    """Forward evaluations of one image of a size with a backend: seconds, GFLOP/s, and its ratio to the peak."""

    size: tuple[int, int]
    batch: int
    backend: str
    gflop: float
    seconds: float
    gflops: float
    ratio: float


@dataclass(frozen=True)
class Bench:
    """The peak of matrix products in GFLOP/s, the library that reached it, and what the network reaches."""

    threads: int
    peak_gflops: float
    library: str
    speeds: tuple[Speed, ...]

    @property
    def best(self) -> Speed:
        """The fastest in GFLOP/s."""
        return max(self.speeds, key=lambda speed: speed.gflops)


def installed_backends() -> tuple[str, ...]:
    """Return the backends that start within seconds and are installed."""
    return tuple(name for name in ("eager", "onnxruntime") if not missing_packages(name))


def forward_gflop(prior: Denoiser, x: torch.Tensor) -> float:
    """Return the operations of one evaluation at x (B, C, Y, X), in 10^9; a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        prior(x, 1.0)
    return counter.get_total_flops() / 1e9


def bench(
    prior: Denoiser,
    backends: Sequence[str],
    sizes: Sequence[tuple[int, int]] = SIZES,
    batches: Sequence[int] = (1,),
    rounds: int = 5,
    build: Callable[[Denoiser, str, int], Denoiser] = with_backend,
) -> Bench:
    """Return how fast a prior is on the CPU with torch's number of threads.

    sizes: (Y, X) of the images.  rounds: that medians are taken over.  build: how a backend's prior is made.
    """
    threads = torch.get_num_threads()
    priors = {name: build(prior, name, threads) for name in backends}
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, prior.info.channels, *size) for size in sizes for batch in batches]
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    gflop = [forward_gflop(prior, x) for x in inputs]
    products = _products()
    peaks = dict.fromkeys(products, math.inf)
    seconds: dict[tuple[int, str], list[float]] = {(i, name): [] for i in range(len(inputs)) for name in priors}
    with torch.inference_mode():
        # the first call of each makes what it needs
        for i, name in seconds:
            priors[name](inputs[i], 1.0)
        for product in products.values():
            product()
        for _ in range(rounds):
            for library, product in products.items():
                peaks[library] = min(peaks[library], _timed(product))
            for (i, name), times in seconds.items():
                times.append(_timed(lambda i=i, name=name: priors[name](inputs[i], 1.0)))  # type: ignore[misc]
    library = min(peaks, key=lambda name: peaks[name])
    peak = 2e-9 * MATRIX**3 / peaks[library]
    speeds = []
    for (i, name), times in seconds.items():
        median = statistics.median(times)
        rate = gflop[i] / median
        batch, _, y, x = shapes[i]
        speeds.append(Speed((y, x), batch, name, gflop[i], median, rate, rate / peak))
    return Bench(threads, peak, library, tuple(speeds))


def _products() -> dict[str, Callable[[], object]]:
    """Return products of two float32 matrices by the libraries that torch has.

    MKL alone would be no peak: on some processors oneDNN's is twice as fast.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(MATRIX, MATRIX, generator=generator) for _ in range(2))
    made = torch.empty(MATRIX, MATRIX)
    found: dict[str, Callable[[], object]] = {"torch": lambda: torch.mm(left, right, out=made)}
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
    if linear is not None:
        found["oneDNN"] = lambda: linear(left, right, None, "none", [], "")
    return found


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
