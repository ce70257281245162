"""Joseph's projection of 2-D images along any rays: one thread a ray, line by line, for several images at once.

y[j] = height_j sum_r (1 - f) x[r, i] + f x[r, i + 1],    i + f = start_j + r slope_j
"""

from __future__ import annotations

import triton
import triton.language as tl

from recon.kernels.triton.fixed import MISS, fraction, rest, whole


@triton.jit
def project_rays(
    image,  # (batch, rows, columns)
    turned,  # (batch, columns, rows): the same images transposed, for rays that walk along the columns
    data,  # (batch, rays)
    start,  # (rays,) int64, fixed point
    slope,  # (rays,) int64, fixed point; its last bit is the axis
    height,  # (rays,) float64
    rows,
    columns,
    rays,
    batch,
    BLOCK_BATCH: tl.constexpr,
    BLOCK_RAYS: tl.constexpr,
):
    REAL: tl.constexpr = data.dtype.element_ty
    ray = tl.program_id(0) * BLOCK_RAYS + tl.arange(0, BLOCK_RAYS)
    item = tl.program_id(1) * BLOCK_BATCH + tl.arange(0, BLOCK_BATCH)[:, None]
    known, held = ray < rays, item < batch

    position = tl.load(start + ray, mask=known, other=MISS)
    step = tl.load(slope + ray, mask=known, other=0)
    across = (step & 1) == 1
    width, lines = tl.where(across, rows, columns), tl.where(across, columns, rows)
    first = item.to(tl.int64) * rows * columns
    at = tl.where(across[None, :], turned + first, image + first)

    total = tl.zeros([BLOCK_BATCH, BLOCK_RAYS], REAL)
    for line in range(0, tl.maximum(rows, columns)):
        index, e, f = whole(position), rest(position, REAL), fraction(position, REAL)
        index = tl.where(line < lines, index, -2)
        pixel = at + (line * width + index)[None, :]
        left = tl.load(pixel, mask=held & (index >= 0) & (index < width)[None, :], other=0.0)
        right = tl.load(pixel + 1, mask=held & (index >= -1) & (index < width - 1)[None, :], other=0.0)
        total += e[None, :] * left + f[None, :] * right
        position += step

    total *= tl.load(height + ray, mask=known, other=0.0).to(REAL)[None, :]
    tl.store(data + item.to(tl.int64) * rays + ray[None, :], total, mask=held & known[None, :])
