"""Vector updates of solvers and samplers, fused: each a pass or two through memory instead of one for every operation.

    combine          sum_k w_k v_k
    guide            c = x0 + change,   x' = c + keep (x - base) + fresh z               denoise, guide, renoise
    conjugate_step   one iteration of conjugate gradients, with sums and steps per item  and no wait for the device
    spread, gather   S_c x and sum_c conj(S_c) x_c around the transforms of coils        on a GPU
    shrink           v = D x + u,   d = soft(v, t),   u' = v - d                         of total variation by ADMM

Triton on a GPU, C on the CPU, or the reference in torch, as `recon.kernels.dispatch` chooses; the reference also serves
other types, broadcast shapes, tensors that gradients are traced through, and devices where forced kernels do not work.
C and Triton sum in a fixed order: results do not depend on threads.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recon.kernels import compiled, dispatch

MODULES = {"triton": "recon.kernels.triton.fused", "compiled": "recon.kernels.vectors"}
FLOATS = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def combine(terms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum_k weights_k terms_k as a new tensor: two to four terms of one shape, real or complex."""
    kernels = _kernels(*terms)
    if kernels is None:
        total = terms[0] * weights[0] if weights[0] != 1 else terms[0]
        for term, weight in zip(terms[1:], weights[1:], strict=True):
            total = total.add(term, alpha=weight)
        return total
    return _like(kernels.combine([_plain(term) for term in terms], weights), terms[0])


def guide(
    x: Tensor, clean: Tensor, base: Tensor, change: Tensor | None, noise: Tensor | None, keep: float, fresh: float
) -> tuple[Tensor, Tensor]:
    """Return the corrected c = clean + change and the next state c + keep (x - base) + fresh noise.

    All (B, ...) of one shape and type; no change or noise counts as zero.
    """
    kernels = _kernels(x, clean, base, *(v for v in (change, noise) if v is not None))
    if kernels is None:
        corrected = clean if change is None else clean + change
        moved = corrected.add(x - base, alpha=keep)
        return corrected, moved if noise is None else moved.add(noise, alpha=fresh)
    ready = [None if v is None else _plain(v) for v in (x, clean, base, change, noise)]
    corrected, moved = kernels.guide(*ready, keep, fresh)
    return _like(corrected, x), _like(moved, x)


def square(x: Tensor) -> Tensor:
    """Return <x, x> of each item of x (B, ...): (B,), in the type that `conjugate_step` sums in."""
    kernels = _kernels(x)
    if kernels is None:
        v = _reals(x).flatten(1)
        return torch.linalg.vecdot(v, v, dim=1)
    found: Tensor = kernels.square(_plain(x))
    return found


def conjugate_step(
    x: Tensor,
    residual: Tensor,
    direction: Tensor,
    image: Tensor,
    square: Tensor,
    limit: Tensor,
    shift: Tensor,
    weight: Tensor,
) -> Tensor:
    """Advance one iteration on (shift + weight M) x = b, with q = M p; return the new <r, r> of each item.

        c = <p, shift p + weight q>,   a = <r, r>/c,   x += a p,   r -= a (shift p + weight q),
        p = r + (<r, r>'/<r, r>) p;    a = 0 where <r, r> <= limit or c <= 0

    x, residual, direction: (B, ...), contiguous, changed in place.  image: q, like them.  square, limit, shift, weight:
    (B,), of the type of `square(x)`.
    """
    image = image.to(x.dtype)
    kernels = _kernels(x, residual, direction, image)
    if kernels is not None:
        vectors = (_reals(x), _reals(residual), _reals(direction), _plain(image))
        found: Tensor = kernels.conjugate_step(*vectors, square, limit, shift, weight)
        return found
    vx, vr, vp, q = (_reals(v) for v in (x, residual, direction, image))
    column = (-1, *(1,) * (vr.ndim - 1))
    q = (q * weight.reshape(column)).addcmul_(vp, shift.reshape(column))
    curvature = torch.linalg.vecdot(vp.flatten(1), q.flatten(1), dim=1)
    active = square > limit
    step = torch.where(active & (curvature > 0), square / curvature, 0.0).reshape(column)
    vx.addcmul_(step, vp)
    vr.addcmul_(step, q, value=-1)
    del q
    flat = vr.flatten(1)
    reduced = torch.linalg.vecdot(flat, flat, dim=1)
    turn = torch.where(active, reduced / square, 0.0).reshape(column)
    torch.addcmul(vr, turn, vp, out=vp)
    return reduced


def shrink(x: Tensor, dual: Tensor, threshold: float, around: bool) -> tuple[Tensor, Tensor]:
    """Return the split d and the dual u' of real volumes x and duals u (B, C, Z, Y, X), with D along Z.

    around: the last slice's neighbour is the first; else it has none.
    """
    kernels = None if x.is_complex() else _kernels(x, dual)
    if kernels is None:
        ahead = x.roll(-1, 2).sub_(x)
        if not around:
            ahead.select(2, -1).zero_()
        split = soft_threshold(ahead.add_(dual), threshold)
        return split, ahead.sub_(split)
    flat = [_plain(v).reshape(x.shape[0] * x.shape[1], x.shape[2], -1) for v in (x, dual)]
    split, following = kernels.shrink(*flat, threshold, around)
    return split.reshape(x.shape), following.reshape(x.shape)


def spread(x: Tensor, maps: Tensor) -> Tensor:
    """Return the coils' images S_c x, (B, coils, *shape), of complex x (B, 1, *shape) and maps S (coils, *shape)."""
    kernels = _triton(x, maps)
    if kernels is None:
        return x * maps
    return torch.view_as_complex(kernels.spread(_plain(x), _plain(maps)))


def gather(images: Tensor, maps: Tensor) -> Tensor:
    """Return sum_c S_c images_c, (B, 1, *shape), of images (B, coils, *shape), which may be overwritten."""
    kernels = _triton(images, maps)
    if kernels is None:
        return images.mul_(maps).sum(1, keepdim=True)
    return torch.view_as_complex(kernels.gather(_plain(images), _plain(maps)))[:, None]


def soft_threshold(x: Tensor, threshold: float) -> Tensor:
    """Return x moved towards 0 by `threshold`, and 0 where |x| is less; complex values keep their phase."""
    if not x.is_complex():
        return x - x.clamp(-threshold, threshold)
    return x * (1 - threshold / x.abs().clamp_min(torch.finfo(x.real.dtype).tiny)).clamp_min(0)


def _kernels(*tensors: Tensor) -> Any:
    """Return the module of kernels that take these tensors, or None for the reference.

    They must be alike in shape and type, and no gradient traced through them.
    """
    first = tensors[0]
    if first.dtype not in FLOATS:
        return None
    if any(v.dtype != first.dtype or v.shape != first.shape or v.device != first.device for v in tensors):
        return None
    if not first.numel() or (torch.is_grad_enabled() and any(v.requires_grad for v in tensors)):
        return None
    chosen = backend(first.device)
    return None if chosen == "reference" else importlib.import_module(MODULES[chosen])


def _triton(x: Tensor, maps: Tensor) -> Any:
    """Return the GPU's kernels where they multiply these by maps, or None: the CPU's are in `recon.kernels.sense`."""
    fit = x.is_complex() and x.dtype == maps.dtype and x.device == maps.device and _kernels(maps) is not None
    return _kernels(x) if fit and backend(x.device) == "triton" else None


def backend(device: torch.device) -> str:
    """Return which kernels take tensors of a device: those chosen there, and the reference for forced ones that cannot.

    Raises ConfigError for an unknown name in RECON_KERNELS.
    """
    settings = tuple((name, os.environ.get(name, "")) for name in (dispatch.VARIABLE, dispatch.INTERPRETER))
    return _backend(device.type, settings, compiled.library())


@functools.lru_cache(maxsize=16)
def _backend(device: str, settings: tuple[tuple[str, str], ...], library: compiled.Library) -> str:
    place, environ = torch.device(device), dict(settings)
    forced = environ[dispatch.VARIABLE]
    if forced in dispatch.BACKENDS and dispatch.unavailable(forced, place, environ):
        return "reference"
    return dispatch.choose(place, environ).backend


def _plain(v: Tensor) -> Tensor:
    """Return v, or the real view (..., 2) of a complex v, contiguous."""
    return _reals(v).contiguous()


def _reals(v: Tensor) -> Tensor:
    return torch.view_as_real(v.resolve_conj()) if v.is_complex() else v


def _like(found: Tensor, x: Tensor) -> Tensor:
    return torch.view_as_complex(found) if x.is_complex() else found
