"""Fixed-point positions: 16 bits of whole pixels and 48 of fraction in an int64, which wraps like any other.

Sums and products with whole numbers are exact, in any order and on any device. So a forward kernel that adds a slope
line by line and an adjoint kernel that multiplies it by the line's number find the same index and the same weight, bit
by bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

BITS = tl.constexpr(48)
ONE = tl.constexpr(2**48)  # pixel
MISS = tl.constexpr(-(2**62))  # a position that is left of any image


@triton.jit
def whole(position):
    """Return the index of the pixel at or below the position, int32."""
    return (position >> BITS).to(tl.int32)


@triton.jit
def fraction(position, REAL: tl.constexpr):
    """Return the distance f from that pixel, in [0, 1], rounded to REAL."""
    return (position & (ONE - 1)).to(REAL) * 2.0**-48


@triton.jit
def rest(position, REAL: tl.constexpr):
    """Return 1 - f, rounded to REAL once: a ray that grazes a pixel keeps all its digits, which 1 - fraction loses."""
    return ((position & (ONE - 1)) - ONE).to(REAL) * -(2.0**-48)


@triton.jit
def first_beyond(gap, pitch, inverse, REAL: tl.constexpr):
    """Return the number j of the first ray whose gap + j pitch is above -1, and that gap.

    inverse: 1 / pitch in pixels, as REAL. The first guess has 16 bits of fraction; the exact gap
    that it leaves mends it.
    A ray that rounding leaves out is as far off as the rounding, and has no more weight.
    """
    rough = (gap >> (BITS - 16)).to(tl.int32).to(tl.float32) * 2.0**-16
    ray = tl.floor((-1 - rough) * inverse).to(tl.int32)
    gap += ray * pitch
    more = tl.floor((-1 - gap.to(REAL) * 2.0**-48) * inverse).to(tl.int32) + 1
    return ray + more, gap + more * pitch


@triton.jit
def weight(gap, REAL: tl.constexpr):
    """Return what a pixel takes of a ray that passes `gap` beyond it: 1 - |gap|, or 0 from a whole pixel on."""
    i = whole(gap)
    return tl.where(i == 0, rest(gap, REAL), tl.where(i == -1, fraction(gap, REAL), 0.0))
