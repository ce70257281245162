"""The compiled CPU kernel of SENSE: coil maps, Fourier transforms, sampling and the combination of coils in one go.

    y_c = q F p S_c x,   its adjoint,   and A^H A,    F the plain transform, p and q factors of image and k-space

Coils lie side by side in vector registers, so that a row of all coils is multiplied, transformed and combined in the
cache; only lines of k-space that hold samples are kept. Sizes need small prime factors (`radices`).
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError, ResourceError
from recon.kernels.compiled import call
from recon.kernels.vectors import LETTERS

LONG = np.dtype(ctypes.c_long)
LANES = {torch.float32: 8, torch.float64: 4}
PRIMES = (3, 5, 7, 11, 13)
IMAGE_TO_SAMPLES, SAMPLES_TO_IMAGE, NORMAL, MORE_NORMAL = range(4)  # tasks of `csrc/sense.c`; the last adds


class Fourier(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("size", "passes")),
        *((name, ctypes.c_void_p) for name in ("radices", "factors")),
    )


class _Sense(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("size", "rows", "coils", "kept", "along", "across")),
        ("lines", ctypes.c_void_p),
        ("row", Fourier),
        ("line", Fourier),
        *((name, ctypes.c_void_p) for name in ("maps", "phase", "sampling", "gram", "turn")),
        *((name, ctypes.c_long) for name in ("flat", "complex_image")),
    )


@final
class Coils:
    """Coil maps as the kernel reads them, for images whose rows run along an axis. Immutable."""

    def __init__(self, maps: Tensor, axis: int, complex_image: bool) -> None:
        """Pack maps S (coils, Y, X), complex.  axis: -1 or -2.  complex_image: else the real part counts."""
        self.real = maps.dtype.to_real()
        self.count, self.axis, self.complex_image = maps.shape[0], axis, complex_image
        self.image = self.real.to_complex() if complex_image else self.real
        self._kept: list[Tensor] = []
        turned = self.turned(maps)
        self.rows, self.size = turned.shape[1:]
        self.maps = self.hold(_in_lanes(turned, LANES[self.real]))

    def turned(self, plane: Tensor) -> Tensor:
        """Return values (..., Y, X) as (..., rows, size)."""
        return plane if self.axis == -1 else plane.mT

    def scan(self, symbol: Tensor, phase: Tensor | None, flat: bool = False, turn: Tensor | None = None) -> _Sense:
        """Describe p and q to the library, (Y, X): q complex for samples, real for A^H A; flat: q varies along rows.

        turn: t (rows,), complex, for a sum of two with q (2, Y, X), the second of images times t.
        """
        gram, symbol = not symbol.is_complex(), self.turned(symbol)
        lines = (symbol != 0).reshape(-1, self.size).any(0).nonzero().flatten()
        kept = symbol[0] if flat else symbol[..., lines].mT.contiguous()
        held = self.hold(kept if gram else torch.view_as_real(kept))
        steps = (1, self.size) if self.axis == -1 else (self.rows, 1)
        return _Sense(
            *(self.size, self.rows, self.count, len(lines), *steps),
            self.hold(torch.from_numpy(lines.numpy().astype(LONG))),
            self.plan(self.size),
            self.plan(self.rows),
            self.maps,
            None if phase is None else self.hold(torch.view_as_real(self.turned(phase).contiguous())),
            *((None, held) if gram else (held, None)),
            None if turn is None else self.hold(torch.view_as_real(turn)),
            *(int(flat), int(self.complex_image)),
        )

    def plan(self, n: int) -> Fourier:
        """Return the passes of the transform of n points, and their factors."""
        taken = radices(n)
        if taken is None:
            raise ResourceError(f"no compiled transform of {n} points", "use RECON_KERNELS=reference")
        parts, left = [], n
        for radix in taken:
            turns = np.outer(np.arange(left // radix), np.arange(1, radix)) / left
            parts += [turns.ravel(), np.arange(radix) / radix]
            left //= radix
        waves = torch.from_numpy(np.exp(-2j * math.pi * np.concatenate([*parts, np.zeros(1)])))
        factors = self.hold(torch.view_as_real(waves).to(self.real))
        return Fourier(n, len(taken), self.hold(torch.from_numpy(np.array([*taken, 0], LONG))), factors)

    def run(self, scan: ctypes.Structure, given: Tensor, found: Tensor, task: int, name: str = "sense") -> Tensor:
        """Do a task of `csrc/sense.c`. Raises ConfigError for numbers that the kernel does not take."""
        kind = self.real.to_complex() if task == SAMPLES_TO_IMAGE else self.image
        if given.device.type != "cpu" or (given.is_complex() and not kind.is_complex):
            raise ConfigError(
                f"coils' transforms got {given.dtype} on {given.device}, expected {kind} on the CPU",
                "move the operator with its data, or take a complex image",
            )
        given = given.to(kind).resolve_conj().resolve_neg().contiguous()
        if call(f"recon_{name}_{LETTERS[self.real]}", ctypes.byref(scan), given, found, given.shape[0], task):
            raise ResourceError("out of memory in the coils' transforms", "use a smaller batch or image")
        return found

    def hold(self, values: Tensor) -> int:
        """Return the address of values, which live as long as this object."""
        values = values.contiguous()
        self._kept.append(values)
        return values.data_ptr()


@final
class CompiledSense:
    """SENSE of images (B, 1, Y, X) on the CPU, in the type of the maps. Immutable."""

    def __init__(self, maps: Tensor, phase: Tensor, sampling: Tensor, gram: Tensor, complex_image: bool) -> None:
        """Describe the scan to the library.

        maps: S (coils, Y, X).  phase: p (Y, X), and sampling: q (Y, X), 0 where nothing is measured; all complex.
        gram: |p|^2 |q|^2 (Y, X), real: what A^H A multiplies by between F and F^H.  complex_image: else the real part.
        """
        self.parts = (maps, phase, sampling, gram, complex_image)
        varies = [bool((gram != gram.narrow(d, 0, 1)).any()) for d in (-2, -1)]
        flat = not all(varies)
        self._coils = Coils(maps, -2 if flat and varies[0] else -1 if flat else _emptiest(sampling), complex_image)
        self._scan, self._normal = self._coils.scan(sampling, phase), self._coils.scan(gram, None, flat)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), self.parts

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledSense:
        return self  # immutable, and its description points into its own arrays

    def forward(self, x: Tensor) -> Tensor:
        """Return the samples (B, coils, Y, X) of images (B, 1, Y, X), zero where nothing is measured."""
        y = x.new_empty(x.shape[0], self._coils.count, *x.shape[2:], dtype=self._coils.real.to_complex())
        return self._coils.run(self._scan, x, y, IMAGE_TO_SAMPLES)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the images (B, 1, Y, X) of samples (B, coils, Y, X)."""
        x = y.new_empty(y.shape[0], 1, *y.shape[2:], dtype=self._coils.image)
        return self._coils.run(self._scan, y, x, SAMPLES_TO_IMAGE)

    def normal(self, x: Tensor) -> Tensor:
        """Return A^H A x for images (B, 1, Y, X)."""
        return self._coils.run(self._normal, x, x.new_empty(x.shape, dtype=self._coils.image), NORMAL)


@final
class CompiledGram:
    """sum_kj conj(p_k t^j) sum_c conj(S_c) F^H q_kj F S_c p_k t^j, j = 0 and 1, of images (B, 1, Y, X), on the CPU.

    Immutable.
    """

    def __init__(self, maps: Tensor, phases: Tensor, turn: Tensor, symbols: Tensor, complex_image: bool) -> None:
        """Describe it to the library: S (coils, Y, X), p (K, Y, X) and t (Y,), complex; q (K, 2, Y, X), real."""
        self.parts = (maps, phases, turn, symbols, complex_image)
        self._coils = Coils(maps, -1, complex_image)
        self._scans = [
            self._coils.scan(q, None if bool((p == 1).all()) else p, turn=turn)
            for p, q in zip(phases, symbols, strict=True)
        ]

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), self.parts

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledGram:
        return self  # as of CompiledSense

    def apply(self, x: Tensor) -> Tensor:
        """Return the sum for images (B, 1, Y, X)."""
        found = x.new_empty(x.shape, dtype=self._coils.image)
        for k, scan in enumerate(self._scans):
            self._coils.run(scan, x, found, MORE_NORMAL if k else NORMAL)
        return found


def fits(coils: int, shape: tuple[int, ...], real: torch.dtype) -> bool:
    """Return whether the kernel serves images of a size, and the coils fill at least half of its lanes."""
    lanes = LANES.get(real, 0)
    return bool(lanes) and 2 * coils >= -(-coils // lanes) * lanes and all(radices(n) is not None for n in shape)


def radices(n: int) -> list[int] | None:
    """Return small factors of n, as its transform takes them; None where a prime factor exceeds 13."""
    found: list[int] = []
    for radix in (4, 2, *PRIMES):
        while n % radix == 0:
            found.append(radix)
            n //= radix
    return found if n == 1 else None


def _in_lanes(maps: Tensor, lanes: int) -> Tensor:
    """Return maps (coils, rows, size) as (groups, rows, size, 2, lanes), real, with zeros for missing coils."""
    coils, rows, size = maps.shape
    padded = maps.new_zeros(-(-coils // lanes) * lanes, rows, size)
    padded[:coils] = maps
    return torch.view_as_real(padded).unflatten(0, (-1, lanes)).permute(0, 2, 3, 4, 1)


def _emptiest(sampling: Tensor) -> int:
    """Return the axis along which the fewest lines hold all samples."""
    seen = sampling != 0
    return min((-1, -2), key=lambda axis: float(seen.any(-3 - axis).float().mean()))
