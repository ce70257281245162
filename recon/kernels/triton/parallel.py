"""The transpose of Joseph's projection for parallel beams, gathered: one thread a pixel, view by view, no atomics.

    x[p] = sum_v height_v sum_j w(start_v + j pitch_v + line slope_v - place) y[v, j],    w: the forward kernel's weight

The first ray j that meets a pixel is guessed, and the exact gap to that ray mends the guess; the others follow a pitch
apart.
"""

from __future__ import annotations

import triton
import triton.language as tl

from recon.kernels.triton.fixed import ONE, first_beyond, weight


@triton.jit
def backproject_parallel(
    image,  # (batch, rows, columns)
    data,  # (batch, views, detectors)
    lines,  # (views, 3) int64, fixed point: position of the first ray at line 0, pitch, slope with the axis as last bit
    scales,  # (views, 2) float64: 1 / pitch, height
    places,  # (views, 3) int32: detector of the first ray, step to the next, number of rays
    rows,
    columns,
    views,
    detectors,
    batch,
    NEIGHBOURS: tl.constexpr,
    BLOCK_BATCH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    REAL: tl.constexpr = image.dtype.element_ty
    tiles = tl.cdiv(columns, BLOCK_COLUMNS)
    column = (tl.program_id(0) % tiles) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)[None, None, :]
    row = (tl.program_id(0) // tiles) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[None, :, None]
    item = tl.program_id(1) * BLOCK_BATCH + tl.arange(0, BLOCK_BATCH)[:, None, None]
    held = item < batch
    measured = data + item.to(tl.int64) * views * detectors

    total = tl.zeros([BLOCK_BATCH, BLOCK_ROWS, BLOCK_COLUMNS], REAL)
    for view in range(0, views):
        start, pitch = tl.load(lines + 3 * view), tl.load(lines + 3 * view + 1)
        slope = tl.load(lines + 3 * view + 2)
        first, towards = tl.load(places + 3 * view), tl.load(places + 3 * view + 1)
        count = tl.load(places + 3 * view + 2)
        across = (slope & 1) == 1
        by_row, by_column = tl.where(across, -ONE, slope), tl.where(across, slope, -ONE)
        inverse = tl.load(scales + 2 * view).to(REAL)

        ray, gap = first_beyond(start + row * by_row + column * by_column, pitch, inverse, REAL)
        part = tl.zeros([BLOCK_BATCH, BLOCK_ROWS, BLOCK_COLUMNS], REAL)
        for _ in range(NEIGHBOURS):
            at, w = view * detectors + first + towards * ray, weight(gap, REAL)
            part += w * tl.load(measured + at, mask=held & (ray >= 0) & (ray < count) & (w > 0), other=0.0)
            ray += 1
            gap += pitch
        total += part * tl.load(scales + 2 * view + 1).to(REAL)

    pixel = item.to(tl.int64) * rows * columns + row * columns + column
    tl.store(image + pixel, total, mask=held & (row < rows) & (column < columns))
