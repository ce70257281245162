"""Score a stack of reconstructions against the truth under a named protocol."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recon.errors import InputError
from recon.metrics.fidelity import nmse, psnr
from recon.metrics.protocols import Protocol
from recon.metrics.ssim import ssim

Range = tuple[float, float]


def evaluate(
    recon: np.ndarray,
    truth: np.ndarray,
    protocol: Protocol,
    data_range: float | Range | None = None,
    mask: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return {psnr, ssim, nmse, items, data_range, data_range_source}, JSON-able; None where infinite or undefined.

    recon, truth: (N, C, Y, X), real or complex, in the same units.
    data_range: (black, white), or white alone, that the file declares; protocols with a rule of their own ignore it.
    mask: (Y, X) or anything with four axes that broadcasts to (N, C, Y, X); not zero in the foreground. It adds
        psnr_masked, ssim_masked and nmse_masked, and changes none of the others.
    Raises InputError on mismatched shapes, values that are not finite, an empty mask or range.
    """
    _check(recon, truth)
    shown = None if mask is None else _mask(mask, truth.shape)
    recon, truth = _magnitude(recon, truth, protocol)
    if protocol.crop == "square":
        recon, truth = _square(recon), _square(truth)
        shown = None if shown is None else _square(shown)
    (low, high), source = _range(truth, protocol, data_range)
    if protocol.clip:
        recon, truth = recon.clip(low, high), truth.clip(low, high)
    scores = _score(recon, truth, high - low, protocol, None)
    if shown is not None:
        if not shown.any():
            raise InputError("the mask has no foreground", "give a mask that is not zero where the image counts")
        masked = _score(recon, truth, high - low, protocol, shown)
        scores |= {f"{name}_masked": value for name, value in masked.items()}
    return scores | {"items": int(truth.shape[0]), "data_range": [low, high], "data_range_source": source}


def _score(
    recon: np.ndarray, truth: np.ndarray, span: float, protocol: Protocol, mask: np.ndarray | None
) -> dict[str, float | None]:
    """Return PSNR, SSIM and NMSE, over all values or over a mask."""
    items = [i for i in range(truth.shape[0]) if mask is None or mask[i].any()]
    one = [(recon[i], truth[i], None if mask is None else mask[i]) for i in items]
    if protocol.reduction == "image":
        psnr_value = _mean([psnr(r, t, span, m) for r, t, m in one])
        nmse_value = _mean([nmse(r, t, m) for r, t, m in one])
    else:
        psnr_value, nmse_value = psnr(recon, truth, span, mask), nmse(recon, truth, mask)
    if protocol.ssim_reduction == "image":
        similar = [ssim(r, t, span, protocol.window, m) for r, t, m in one]
        ssim_value = _mean([value for value in similar if not math.isnan(value)])
    else:
        # slices become the depth: (N, C, Y, X) -> (C, Z, Y, X)
        depth = None if mask is None else mask.swapaxes(0, 1)
        ssim_value = ssim(recon.swapaxes(0, 1), truth.swapaxes(0, 1), span, protocol.window, depth)
    return {"psnr": _finite(psnr_value), "ssim": _finite(ssim_value), "nmse": _finite(nmse_value)}


def _range(truth: np.ndarray, protocol: Protocol, declared: float | Range | None) -> tuple[Range, str]:
    """Return the data range and where it came from."""
    if protocol.data_range == "declared" and declared is not None:
        low, high = declared if isinstance(declared, tuple) else (0.0, declared)
        found, source = (float(low), float(high)), "declared"
    else:
        low = min(0.0, float(truth.min())) if protocol.data_range == "declared" else 0.0
        found, source = (low, float(truth.max())), "truth"
    if not found[1] > found[0]:
        raise InputError(
            f"protocol '{protocol.name}' needs a data range above 0, got {found[0]:g} to {found[1]:g} ({source})",
            "give the range that the image's units span, or a truth that is not zero everywhere",
        )
    return found, source


def _magnitude(recon: np.ndarray, truth: np.ndarray, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64, as magnitudes if the protocol says so or either is complex."""
    if protocol.magnitude == "always" or np.iscomplexobj(recon) or np.iscomplexobj(truth):
        recon, truth = np.abs(recon), np.abs(truth)
    return recon.astype(np.float64), truth.astype(np.float64)


def _square(stack: np.ndarray) -> np.ndarray:
    """Return as many rows about the centre as there are columns; stacks with fewer rows stay as they are."""
    rows, columns = stack.shape[-2:]
    start = max(0, (rows - columns) // 2)
    return stack[..., start : start + columns, :]


def _mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the mask as booleans of the full shape."""
    if mask.ndim in (2, 4):
        try:
            return np.broadcast_to(mask != 0, shape)
        except ValueError:
            pass
    raise InputError(
        f"a mask of shape {mask.shape} does not fit images of shape {shape}", "give (Y, X) or (N, C, Y, X)"
    )


def _check(recon: np.ndarray, truth: np.ndarray) -> None:
    if recon.shape != truth.shape or truth.ndim != 4:
        raise InputError(
            f"reconstruction and truth must have one shape (N, C, Y, X), got {recon.shape} and {truth.shape}",
            "compare files of the same size and axes",
        )
    for name, stack in (("reconstruction", recon), ("truth", truth)):
        if not np.isfinite(stack).all():
            raise InputError(f"the {name} has values that are not finite", "metrics need finite images")


def _mean(values: list[float]) -> float:
    """Return the mean; infinite if any value is, NaN if there is none."""
    return math.fsum(values) / len(values) if values else math.nan


def _finite(value: float) -> float | None:
    """Return the number, or None (null in JSON) where it is infinite or undefined."""
    return value if math.isfinite(value) else None
