"""What is reconstructed in one go: an image, or a volume whose slices a method or an operator sees together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.operators.base import Operator
from recon.operators.slices import Slicewise
from recon.runs.resolve_input import ResolvedInput
from recon.samplers.base import Method, SeededNoise
from recon.samplers.volume import SliceNoise


@dataclass(frozen=True)
class Part:
    """One inverse problem of a run.

    y: (1, *out_shape).  operator: of an image (C, Y, X) or a volume (C, Z, Y, X).  first: number of its image or first
    slice among all.
    """

    y: np.ndarray
    operator: Operator
    first: int

    @property
    def is_volume(self) -> bool:
        """Whether it is a volume."""
        return len(self.operator.in_shape) == 4

    @property
    def images(self) -> int:
        """Number of its images: the slices of a volume."""
        return self.operator.in_shape[1] if self.is_volume else 1

    def noise(self, seed: int, indices: list[int], device: torch.device) -> SeededNoise | SliceNoise:
        """Return the noise of some samples: an image's or slice's is the same in every run that starts at the same
        image, whatever is reconstructed together."""
        seeds = [seed * 1_000_003 + self.first + z for z in range(self.images)]
        sources = [SeededNoise(s, indices, device) for s in seeds]
        return SliceNoise(sources) if self.is_volume else sources[0]


def is_volume(method: Method, operator: Operator) -> bool:
    """Return whether a method sees the images of an operator as volumes."""
    return method.joint or len(operator.in_shape) == 4


def count_images(resolved: ResolvedInput) -> int:
    """Return the number of images or slices in all."""
    shape, items = resolved.operator.in_shape, int(resolved.measurement.y.shape[0])
    return items * (shape[1] if len(shape) == 4 else 1)


def count_parts(resolved: ResolvedInput, method: Method) -> int:
    """Return the number of problems of a run."""
    return 1 if _joins(resolved, method) else int(resolved.measurement.y.shape[0])


def parts(resolved: ResolvedInput, method: Method) -> Iterator[Part]:
    """Yield the problems of a run: the items one by one, or all slices as one volume."""
    items = int(resolved.measurement.y.shape[0])
    if not _joins(resolved, method):
        each = count_images(resolved) // items
        for index in range(items):
            y, operator = resolved.item(index)
            yield Part(y, operator, index * each)
    elif resolved.scan is None:
        yield Part(resolved.measurement.y[None], Slicewise([resolved.operator], items), 0)
    else:
        found = [resolved.item(index) for index in range(items)]
        yield Part(np.stack([y for y, _ in found], axis=1), Slicewise([operator for _, operator in found]), 0)


def check_volume(resolved: ResolvedInput, name: str, method: Method) -> list[str]:
    """Return what is done with the slices, in lines for the user.

    name: of the method.  Raises ConfigError where the items are no slices of one volume.
    """
    items, geometry = int(resolved.measurement.y.shape[0]), resolved.measurement.geometry
    if not _joins(resolved, method) or items == 1:
        return []
    if geometry is not None and "n" in geometry.axes:
        raise ConfigError(
            f"method '{name}' reconstructs the slices of a volume together, but the {items} images of the input are "
            "independent (axis n)",
            "name their axis z if they are neighbours, or choose a method of images, such as dds",
        )
    return [f"the {items} slices are reconstructed together, as one volume"]


def as_slices(samples: Tensor) -> Tensor:
    """Return samples (S, C, [Z,] Y, X) as images (S, Z or 1, C, Y, X)."""
    return samples.transpose(1, 2) if samples.ndim == 5 else samples[:, None]


def _joins(resolved: ResolvedInput, method: Method) -> bool:
    return method.joint and len(resolved.operator.in_shape) == 3
