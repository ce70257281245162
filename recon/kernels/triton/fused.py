"""The fused vector updates on a GPU: what `recon.kernels.vectors` does in C.

Complex tensors come as their real views (..., 2). Sums go in two steps, of blocks and then of an item's blocks, in a
fixed order and in double precision; steps are computed on the device, so that nothing waits for it. Triton passes
numbers in single precision: those that count come as two, whose sum is exact enough for double.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, PIXELS = 1024, 256  # numbers and pixels of one program; powers of two


@triton.jit
def dot_blocks(p, q, shift, weight, sums, size, BLOCK: tl.constexpr):
    """sums = <p, shift p + weight q> of each block; program (block, item)."""
    item, block = tl.program_id(1), tl.program_id(0)
    place = block * BLOCK + tl.arange(0, BLOCK)
    held, at = place < size, item.to(tl.int64) * size + place
    here, image = tl.load(p + at, held, 0.0), tl.load(q + at, held, 0.0)
    REAL: tl.constexpr = p.dtype.element_ty
    product = here * (tl.load(shift + item).to(REAL) * here + tl.load(weight + item).to(REAL) * image)
    tl.store(sums + item * tl.num_programs(0) + block, tl.sum(product.to(tl.float64), 0))


@triton.jit
def total(sums, item, blocks, BLOCK: tl.constexpr):
    """Return the sum of an item's blocks."""
    parts = tl.zeros([BLOCK], tl.float64)
    for first in range(0, blocks, BLOCK):
        place = first + tl.arange(0, BLOCK)
        parts += tl.load(sums + item * blocks + place, place < blocks, 0.0)
    return tl.sum(parts, 0)


@triton.jit
def add_blocks(sums, found, blocks, BLOCK: tl.constexpr):
    """found = the sum of each item's blocks; program (item)."""
    item = tl.program_id(0)
    tl.store(found + item, total(sums, item, blocks, BLOCK))


@triton.jit
def advance_blocks(x, r, p, q, shift, weight, square, limit, curvatures, sums, size, BLOCK: tl.constexpr):
    """x += a p, r -= a (shift p + weight q), sums = <r, r> of each block; program (block, item)."""
    item, block, blocks = tl.program_id(1), tl.program_id(0), tl.num_programs(0)
    REAL: tl.constexpr = x.dtype.element_ty
    curvature, have = total(curvatures, item, blocks, BLOCK), tl.load(square + item)
    moves = (have > tl.load(limit + item)) & (curvature > 0)
    step = tl.where(moves, have / tl.where(moves, curvature, 1.0), 0.0).to(REAL)
    place = block * BLOCK + tl.arange(0, BLOCK)
    held, at = place < size, item.to(tl.int64) * size + place
    here = tl.load(p + at, held, 0.0)
    image = tl.load(shift + item).to(REAL) * here + tl.load(weight + item).to(REAL) * tl.load(q + at, held, 0.0)
    tl.store(x + at, tl.load(x + at, held, 0.0) + step * here, held)
    left = tl.load(r + at, held, 0.0) - step * image
    tl.store(r + at, left, held)
    tl.store(sums + item * blocks + block, tl.sum((left * left).to(tl.float64), 0))


@triton.jit
def turn_blocks(r, p, square, limit, sums, reduced, size, BLOCK: tl.constexpr):
    """p = r + b p, reduced = <r, r>; program (block, item)."""
    item, block, blocks = tl.program_id(1), tl.program_id(0), tl.num_programs(0)
    now, had = total(sums, item, blocks, BLOCK), tl.load(square + item)
    moves = had > tl.load(limit + item)
    turn = tl.where(moves, now / tl.where(moves, had, 1.0), 0.0).to(r.dtype.element_ty)
    place = block * BLOCK + tl.arange(0, BLOCK)
    held, at = place < size, item.to(tl.int64) * size + place
    tl.store(p + at, tl.load(r + at, held, 0.0) + turn * tl.load(p + at, held, 0.0), held)
    if block == 0:
        tl.store(reduced + item, now)


@triton.jit
def both(number, rest, REAL: tl.constexpr):
    """Return a number that came as two."""
    return (tl.zeros([1], tl.float64) + number + rest).to(REAL)


@triton.jit
def combine_blocks(
    out, a, b, c, d, wa, wa_rest, wb, wb_rest, wc, wc_rest, wd, wd_rest, size,
    COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = wa a + wb b + wc c + wd d, the first COUNT of them; program (block)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    held = at < size
    REAL: tl.constexpr = a.dtype.element_ty
    sum = both(wa, wa_rest, REAL) * tl.load(a + at, held, 0.0) + both(wb, wb_rest, REAL) * tl.load(b + at, held, 0.0)
    if COUNT > 2:
        sum += both(wc, wc_rest, REAL) * tl.load(c + at, held, 0.0)
    if COUNT > 3:
        sum += both(wd, wd_rest, REAL) * tl.load(d + at, held, 0.0)
    tl.store(out + at, sum, held)


@triton.jit
def guide_blocks(
    corrected, following, x, clean, base, change, noise, keep, keep_rest, fresh, fresh_rest, size,
    CHANGED: tl.constexpr, NOISY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """corrected = clean + change, following = corrected + keep (x - base) + fresh noise; program (block)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    held = at < size
    REAL: tl.constexpr = x.dtype.element_ty
    found = tl.load(clean + at, held, 0.0)
    if CHANGED:
        found += tl.load(change + at, held, 0.0)
    tl.store(corrected + at, found, held)
    moved = found + both(keep, keep_rest, REAL) * (tl.load(x + at, held, 0.0) - tl.load(base + at, held, 0.0))
    if NOISY:
        moved += both(fresh, fresh_rest, REAL) * tl.load(noise + at, held, 0.0)
    tl.store(following + at, moved, held)


@triton.jit
def shrink_blocks(
    split, following, x, dual, threshold, rest, slices, plane, AROUND: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """v = x_(z+1) - x_z + u, split = soft(v), following = v - split; program (block, item and slice)."""
    slice, place = tl.program_id(1), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    held, at = place < plane, slice.to(tl.int64) * plane + place
    z = slice % slices
    if AROUND:
        ahead = tl.where(z + 1 < slices, 1, 1 - slices)
    else:
        ahead = tl.where(z + 1 < slices, 1, 0)
    there = at + ahead.to(tl.int64) * plane
    v = tl.load(x + there, held, 0.0) - tl.load(x + at, held, 0.0) + tl.load(dual + at, held, 0.0)
    most = both(threshold, rest, x.dtype.element_ty)
    kept = tl.minimum(tl.maximum(v, -most), most)
    tl.store(split + at, v - kept, held)
    tl.store(following + at, kept, held)


@triton.jit
def spread_blocks(images, x, maps, coils, pixels, BLOCK: tl.constexpr):
    """images = S_c x, complex as pairs; program (block of pixels, item), which reads the image once."""
    place, item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    held, at = place < pixels, 2 * (item.to(tl.int64) * pixels + place)
    re, im = tl.load(x + at, held, 0.0), tl.load(x + at + 1, held, 0.0)
    for coil in range(0, coils):
        near = 2 * (coil * pixels + place)
        mr, mi = tl.load(maps + near, held, 0.0), tl.load(maps + near + 1, held, 0.0)
        far = 2 * ((item.to(tl.int64) * coils + coil) * pixels + place)
        tl.store(images + far, mr * re - mi * im, held)
        tl.store(images + far + 1, mr * im + mi * re, held)


@triton.jit
def gather_blocks(x, images, maps, coils, pixels, BLOCK: tl.constexpr):
    """x = sum_c S_c images_c, complex as pairs; program (block of pixels, item)."""
    place, item = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    held = place < pixels
    re = tl.zeros([BLOCK], x.dtype.element_ty)
    im = tl.zeros([BLOCK], x.dtype.element_ty)
    for coil in range(0, coils):
        near = 2 * (coil * pixels + place)
        mr, mi = tl.load(maps + near, held, 0.0), tl.load(maps + near + 1, held, 0.0)
        far = 2 * ((item.to(tl.int64) * coils + coil) * pixels + place)
        vr, vi = tl.load(images + far, held, 0.0), tl.load(images + far + 1, held, 0.0)
        re += mr * vr - mi * vi
        im += mr * vi + mi * vr
    at = 2 * (item.to(tl.int64) * pixels + place)
    tl.store(x + at, re, held)
    tl.store(x + at + 1, im, held)


def square(x: Tensor) -> Tensor:
    """Return <x, x> of each item of x (B, ...), float64 (B,)."""
    grid, size, sums = _split(x)
    zero, one, found = (x.new_full((x.shape[0],), v, dtype=torch.float64) for v in (0.0, 1.0, 0.0))
    dot_blocks[grid](x, x, zero, one, sums, size, _block(size))
    add_blocks[(x.shape[0],)](sums, found, grid[0], BLOCK)
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
    """Advance x, residual and direction (B, ...) in place; return the new square, float64 (B,) as the last four are."""
    grid, size, sums = _split(x)
    squares, reduced, block = torch.empty_like(sums), torch.empty_like(square), _block(size)
    dot_blocks[grid](direction, image, shift, weight, sums, size, block)
    advance_blocks[grid](x, residual, direction, image, shift, weight, square, limit, sums, squares, size, block)
    turn_blocks[grid](residual, direction, square, limit, squares, reduced, size, block)
    return reduced


def combine(terms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum_k weights_k terms_k, of two to four terms."""
    out, size = torch.empty_like(terms[0]), terms[0].numel()
    missing = 4 - len(terms)
    four, factors = (
        [*terms, *list(terms[:1]) * missing],
        [part for w in (*weights, *(0.0,) * missing) for part in _two(w)],
    )
    combine_blocks[_line(size)](out, *four, *factors, size, len(terms), _block(size))
    return out


def guide(
    x: Tensor, clean: Tensor, base: Tensor, change: Tensor | None, noise: Tensor | None, keep: float, fresh: float
) -> tuple[Tensor, Tensor]:
    """Return c = clean + change and c + keep (x - base) + fresh noise."""
    corrected, following, size = torch.empty_like(x), torch.empty_like(x), x.numel()
    d, z = (x if v is None else v for v in (change, noise))
    flags = change is not None, noise is not None
    given = (corrected, following, x, clean, base, d, z, *_two(keep), *_two(fresh))
    guide_blocks[_line(size)](*given, size, *flags, _block(size))
    return corrected, following


def shrink(x: Tensor, dual: Tensor, threshold: float, around: bool) -> tuple[Tensor, Tensor]:
    """Return the split and the next dual of total variation across the slices of x (items, slices, plane)."""
    split, following = torch.empty_like(x), torch.empty_like(x)
    items, slices, plane = x.shape
    grid = (triton.cdiv(plane, _block(plane)), items * slices)
    shrink_blocks[grid](split, following, x, dual, *_two(threshold), slices, plane, around, _block(plane))
    return split, following


def spread(x: Tensor, maps: Tensor) -> Tensor:
    """Return S_c x, (B, coils, ..., 2), of x (B, ..., 2) and maps S (coils, ..., 2)."""
    images, pixels = x.new_empty(x.shape[0], *maps.shape), x[0].numel() // 2
    block = _block(pixels, PIXELS)
    spread_blocks[(triton.cdiv(pixels, block), x.shape[0])](images, x, maps, maps.shape[0], pixels, block)
    return images


def gather(images: Tensor, maps: Tensor) -> Tensor:
    """Return sum_c S_c images_c, (B, ..., 2), of images (B, coils, ..., 2) and maps S (coils, ..., 2)."""
    x, pixels = images.new_empty(images.shape[0], *maps.shape[1:]), maps[0].numel() // 2
    block = _block(pixels, PIXELS)
    gather_blocks[(triton.cdiv(pixels, block), x.shape[0])](x, images, maps, maps.shape[0], pixels, block)
    return x


def _split(x: Tensor) -> tuple[tuple[int, int], int, Tensor]:
    """Return the grid of blocks of items, the size of an item, and room for a sum of each block."""
    size = x[0].numel()
    grid = (triton.cdiv(size, _block(size)), x.shape[0])
    return grid, size, x.new_empty(grid[::-1], dtype=torch.float64)


def _two(number: float) -> tuple[float, float]:
    """Return a number as one of single precision and the rest."""
    single = float(np.float32(number))
    return single, float(number) - single


def _line(size: int) -> tuple[int]:
    return (triton.cdiv(size, _block(size)),)


def _block(size: int, most: int = BLOCK) -> int:
    """Return how many numbers a program takes: more in the interpreter, whose time goes with programs."""
    if isinstance(combine_blocks, triton.JITFunction):
        return most
    return max(most, int(triton.next_power_of_2(-(-size // 3))))
