"""Joseph's projection of volumes along the rays of a cone beam, and its transpose, gathered, without atomics.

Within the slices the rays of a detector column are those of a fan. At line r they have gone lambda_r = depth + r
deepening of the way from source to detector, so that row j of the detector passes slice

    centre + lambda_r (lowest + j pitch),

evenly spaced: between the slices, a column of voxels and a column of the detector meet as in a parallel beam.
"""

from __future__ import annotations

import triton
import triton.language as tl

from recon.kernels.triton.fan import detector_at, gap_to, nearest
from recon.kernels.triton.fixed import BITS, MISS, ONE, first_beyond, fraction, rest, weight, whole


@triton.jit
def in_fixed(value):
    """Return a float64 in fixed point, cut."""
    return (value * ONE).to(tl.int64)


@triton.jit
def lambda_at(line, depth, deepening, far):
    """Return how far a ray has come at a line, float64, as a part of its way from source to detector; within +-far."""
    return tl.minimum(tl.maximum(tl.fma(line.to(tl.float64), deepening, depth), -far), far)


@triton.jit
def length(row, height, tilt, lowest, pitch, REAL: tl.constexpr):
    """Return the length of a ray between two lines: height sqrt(1 + ((lowest + row pitch) tilt)^2)."""
    rise = tl.fma(row.to(tl.float64), pitch, lowest).to(REAL) * tilt
    return height * tl.sqrt(1 + rise * rise)


@triton.jit
def project_cone(
    volume,  # (batch, slices, rows, columns)
    turned,  # (batch, slices, columns, rows): the same volumes with each slice transposed
    data,  # (batch, views, detector rows, detector columns)
    start,  # (views, detector columns) int64, fixed point
    slope,  # likewise; its last bit is the axis
    height,  # (views, detector columns) float64, and tilt, depth, deepening
    tilt,
    depth,
    deepening,
    stack,  # (4,) float64: centre, lowest, pitch, and the largest lambda that is told apart
    slices,
    rows,
    columns,
    detector_rows,
    detector_columns,
    views,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    REAL: tl.constexpr = data.dtype.element_ty
    item = tl.program_id(2).to(tl.int64)
    ray = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)[None, :]
    v = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    known, view, u = ray < views * detector_columns, ray // detector_columns, ray % detector_columns
    centre, lowest, pitch, far = tl.load(stack), tl.load(stack + 1), tl.load(stack + 2), tl.load(stack + 3)

    position = tl.load(start + ray, mask=known, other=MISS)
    step = tl.load(slope + ray, mask=known, other=0)
    deep = tl.load(depth + ray, mask=known, other=0.0)
    deeper = tl.load(deepening + ray, mask=known, other=0.0)
    across = (step & 1) == 1
    width, lines = tl.where(across, rows, columns), tl.where(across, columns, rows)
    plane = rows * columns
    at = tl.where(across, turned + item * slices * plane, volume + item * slices * plane)

    total = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], REAL)
    for line in range(0, tl.maximum(rows, columns)):
        index, e, f = whole(position), rest(position, REAL), fraction(position, REAL)
        index = tl.where(line < lines, index, -2)
        part = lambda_at(line + 0 * ray, deep, deeper, far)
        level = in_fixed(tl.fma(part, lowest, centre)) + v * in_fixed(part * pitch)
        below, d, g = whole(level), rest(level, REAL), fraction(level, REAL)
        lower = at + below.to(tl.int64) * plane + (line * width + index)
        left, right = (index >= 0) & (index < width), (index >= -1) & (index < width - 1)
        low, high = (below >= 0) & (below < slices), (below >= -1) & (below < slices - 1)
        a = tl.load(lower, mask=left & low, other=0.0)
        b = tl.load(lower + 1, mask=right & low, other=0.0)
        a = d * a + g * tl.load(lower + plane, mask=left & high, other=0.0)
        b = d * b + g * tl.load(lower + plane + 1, mask=right & high, other=0.0)
        total += e * a + f * b
        position += step

    tall = tl.load(height + ray, mask=known, other=0.0).to(REAL)
    total *= length(v, tall, tl.load(tilt + ray, mask=known, other=0.0).to(REAL), lowest, pitch, REAL)
    to = ((item * views + view) * detector_rows + v) * detector_columns + u
    tl.store(data + to, total, mask=known & (v < detector_rows))


@triton.jit
def weigh_cone(
    data,  # (batch, views, detector rows, detector columns)
    weighed,  # the same, times the length of each ray between two lines
    height,  # (views, detector columns) float64, and tilt
    tilt,
    stack,  # (4,) float64
    detector_rows,
    detector_columns,
    views,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    REAL: tl.constexpr = data.dtype.element_ty
    item = tl.program_id(2).to(tl.int64)
    ray = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)[None, :]
    v = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    known, view, u = ray < views * detector_columns, ray // detector_columns, ray % detector_columns
    lowest, pitch = tl.load(stack + 1), tl.load(stack + 2)
    tall = tl.load(height + ray, mask=known, other=0.0).to(REAL)
    scale = length(v, tall, tl.load(tilt + ray, mask=known, other=0.0).to(REAL), lowest, pitch, REAL)
    at = ((item * views + view) * detector_rows + v) * detector_columns + u
    inside = known & (v < detector_rows)
    tl.store(weighed + at, scale * tl.load(data + at, mask=inside, other=0.0), mask=inside)


@triton.jit
def backproject_cone(
    volume,  # (batch, slices, rows, columns)
    data,  # (batch, views, detector rows, detector columns), weighed
    start,  # (views, detector columns) int64, fixed point
    slope,  # likewise; its last bit is the axis
    depth,  # likewise, and deepening: float64
    deepening,
    stack,  # (4,) float64: centre, lowest, pitch, and the largest lambda that is told apart
    poses,  # (views, 6) float32: as of a fan
    curve,  # (9,) float32: as of a fan
    slices,
    rows,
    columns,
    detector_rows,
    detector_columns,
    views,
    density,  # detector rows that a slice spans, times pixels from the source
    BLOCK_SLICES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    REAL: tl.constexpr = volume.dtype.element_ty
    tiles = tl.cdiv(columns, BLOCK_COLUMNS)
    left = (tl.program_id(0) % tiles) * BLOCK_COLUMNS
    top = (tl.program_id(0) // tiles) * BLOCK_ROWS
    right, bottom = tl.minimum(left + BLOCK_COLUMNS, columns) - 1, tl.minimum(top + BLOCK_ROWS, rows) - 1
    column = left + tl.arange(0, BLOCK_COLUMNS)[None, None, :]
    row = top + tl.arange(0, BLOCK_ROWS)[None, :, None]
    level = tl.program_id(1) * BLOCK_SLICES + tl.arange(0, BLOCK_SLICES)[:, None, None]
    item = tl.program_id(2).to(tl.int64)
    height = level.to(tl.int64) << BITS
    centre, lowest, pitch, far = tl.load(stack), tl.load(stack + 1), tl.load(stack + 2), tl.load(stack + 3)
    spread, slack = tl.load(curve + 7), tl.load(curve + 8)

    total = tl.zeros([BLOCK_SLICES, BLOCK_ROWS, BLOCK_COLUMNS], REAL)
    for view in range(0, views):
        pose, measured = poses + 6 * view, data + (item * views + view) * detector_rows * detector_columns
        close = nearest(pose, top, bottom, left, right)
        reach = spread / tl.maximum(close, 1e-3) + slack
        neighbours = tl.ceil(2 * density / tl.maximum(close - 1, 1e-3))
        neighbours = tl.minimum(neighbours, detector_rows + 0.0).to(tl.int32) + 1
        q = tl.load(pose) + tl.load(pose + 1) * row + tl.load(pose + 2) * column
        l = tl.load(pose + 3) + tl.load(pose + 4) * row + tl.load(pose + 5) * column  # noqa: E741
        least = tl.ceil(detector_at(q, tl.maximum(l, 1e-3), curve, False) - reach)
        u = tl.minimum(tl.maximum(least, 0.0), 1e6).to(tl.int32)
        for _ in range(0, tl.minimum(tl.floor(2 * reach), detector_columns + 0.0).to(tl.int32) + 1):
            at, there = view * detector_columns + u, (u >= 0) & (u < detector_columns)
            step = tl.load(slope + at, mask=there, other=0)
            w = weight(gap_to(tl.load(start + at, mask=there, other=MISS), step, row, column), REAL)
            met = there & (w > 0)
            line = tl.where((step & 1) == 1, column + 0 * row, row + 0 * column)
            deep = tl.load(depth + at, mask=met, other=1.0)
            away = lambda_at(line, deep, tl.load(deepening + at, mask=met, other=0.0), far)
            bottommost, climb = tl.fma(away, lowest, centre), away * pitch
            climb = tl.where(climb > 0, climb, 1.0)
            rise = in_fixed(climb)
            v, gap = first_beyond(in_fixed(bottommost) - height, rise, 1 / climb.to(REAL), REAL)
            before = tl.maximum(-v, 0)
            v += before
            gap += before * rise
            part = tl.zeros([BLOCK_SLICES, BLOCK_ROWS, BLOCK_COLUMNS], REAL)
            for _ in range(0, neighbours):
                g = weight(gap, REAL)
                inside = met & (v >= 0) & (v < detector_rows) & (g > 0)
                part += g * tl.load(measured + v * detector_columns + u, mask=inside, other=0.0)
                v += 1
                gap += rise
            total += w * part
            u += 1

    pixel = ((item * slices + level) * rows + row) * columns + column
    tl.store(volume + pixel, total, mask=(level < slices) & (row < rows) & (column < columns))
