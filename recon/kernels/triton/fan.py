"""The transpose of Joseph's projection for fan beams, gathered: one thread a pixel, view by view, no atomics.

Where a pixel lies q across and l along the central ray from the source, it is seen at detector

    flat:  c_0 + c_1 q/l,        curved:  c_0 + h (c_1 + c_2 h^2 + ... + c_6 h^10),   h = q / (l + sqrt(q^2 + l^2)),

which need only be right to a few hundredths: the rays within `reach` of it are tried, and their weights come from the
same table of positions as the forward kernel's.
"""

from __future__ import annotations

import triton
import triton.language as tl

from recon.kernels.triton.fixed import BITS, MISS, weight


@triton.jit
def detector_at(q, l, curve, CURVED: tl.constexpr):  # noqa: E741
    """Return the place along the detector, in detectors, at which a point is seen."""
    if CURVED:
        h = q / (l + tl.sqrt(q * q + l * l))
        s = h * h
        high = tl.load(curve + 4) + s * (tl.load(curve + 5) + s * tl.load(curve + 6))
        place = h * (tl.load(curve + 1) + s * (tl.load(curve + 2) + s * (tl.load(curve + 3) + s * high)))
    else:
        place = q / l * tl.load(curve + 1)
    return tl.load(curve) + place


@triton.jit
def nearest(poses, row, last_row, column, last_column):
    """Return the least distance along the central ray of a tile's pixels, its corners given, in pixels."""
    l_row, l_column = tl.load(poses + 4), tl.load(poses + 5)
    least = tl.load(poses + 3) + tl.minimum(l_row * row, l_row * last_row)
    return least + tl.minimum(l_column * column, l_column * last_column)


@triton.jit
def gap_to(start, slope, row, column):
    """Return how far a ray passes beyond a pixel, on the pixel's line of the ray's own axis, in fixed point."""
    across = (slope & 1) == 1
    line, pixel = tl.where(across, column, row), tl.where(across, row, column)
    return start + line * slope - (pixel.to(tl.int64) << BITS)


@triton.jit
def backproject_fan(
    image,  # (batch, rows, columns)
    data,  # (batch, views, detectors), each times its ray's height
    start,  # (views, detectors) int64, fixed point
    slope,  # (views, detectors) int64, fixed point; its last bit is the axis
    poses,  # (views, 6) float32: q and l at pixel (0, 0), and their growth with row and column, in pixels
    curve,  # (9,) float32: the coefficients c_0 .. c_6, spread (detectors times pixels) and slack (detectors)
    rows,
    columns,
    views,
    detectors,
    batch,
    CURVED: tl.constexpr,
    BLOCK_BATCH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    REAL: tl.constexpr = image.dtype.element_ty
    tiles = tl.cdiv(columns, BLOCK_COLUMNS)
    left = (tl.program_id(0) % tiles) * BLOCK_COLUMNS
    top = (tl.program_id(0) // tiles) * BLOCK_ROWS
    right, bottom = tl.minimum(left + BLOCK_COLUMNS, columns) - 1, tl.minimum(top + BLOCK_ROWS, rows) - 1
    column = left + tl.arange(0, BLOCK_COLUMNS)[None, None, :]
    row = top + tl.arange(0, BLOCK_ROWS)[None, :, None]
    item = tl.program_id(1) * BLOCK_BATCH + tl.arange(0, BLOCK_BATCH)[:, None, None]
    held = item < batch
    measured = data + item.to(tl.int64) * views * detectors
    spread, slack = tl.load(curve + 7), tl.load(curve + 8)

    total = tl.zeros([BLOCK_BATCH, BLOCK_ROWS, BLOCK_COLUMNS], REAL)
    for view in range(0, views):
        pose = poses + 6 * view
        reach = spread / tl.maximum(nearest(pose, top, bottom, left, right), 1e-3) + slack
        q = tl.load(pose) + tl.load(pose + 1) * row + tl.load(pose + 2) * column
        l = tl.load(pose + 3) + tl.load(pose + 4) * row + tl.load(pose + 5) * column  # noqa: E741
        lowest = tl.ceil(detector_at(q, tl.maximum(l, 1e-3), curve, CURVED) - reach)
        ray = tl.minimum(tl.maximum(lowest, 0.0), 1e6).to(tl.int32)
        for _ in range(0, tl.minimum(tl.floor(2 * reach), detectors + 0.0).to(tl.int32) + 1):
            at, there = view * detectors + ray, (ray >= 0) & (ray < detectors)
            gap = gap_to(
                tl.load(start + at, mask=there, other=MISS), tl.load(slope + at, mask=there, other=0), row, column
            )
            w = weight(gap, REAL)
            total += w * tl.load(measured + at, mask=held & there & (w > 0), other=0.0)
            ray += 1

    pixel = item.to(tl.int64) * rows * columns + row * columns + column
    tl.store(image + pixel, total, mask=held & (row < rows) & (column < columns))
