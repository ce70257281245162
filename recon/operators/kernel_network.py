"""The network of an encoded blur kernel: it blurs an image as the code k says.

    y = x + T(G(F(x), k)),   x (B, C, Y, X), k (B, K, Y/m, X/m)

F: a convolution, two of stride 2, residual blocks.  G: a U-Net without normalisation whose lowest level joins k.
T: residual blocks, two pixel shuffles, two convolutions.  m: 4 times 2 for each level of G, 128 as published.
Tensors have the names of the authors' files; sizes and numbers of blocks and levels are inferred from their shapes.
Source: Tran, Tran, Phung, Hoai, Explore Image Deblurring via Encoded Blur Kernel Space, CVPR 2021. Here is the
generator alone: what encodes a pair of images (`kernel_extractor`) is left out. Departure: none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from recon.errors import ConfigError

HINT = "give the authors' weights, such as GOPRO_wVAE.pth; the file is incomplete, or of another architecture"
MARKS = ("feature_extractor.0.weight", "adapter.model.down.0.weight")
UNUSED = "kernel_extractor."
Shapes = Mapping[str, tuple[int, ...]]


@final
@dataclass(frozen=True)
class KernelNetwork:
    """The sizes of a network; its tensors are given to each call.

    channels: of the image.  code: channels K of the code.  front, back: residual blocks of F and T.
    levels: of the U-Net G.
    """

    channels: int
    code: int
    front: int
    back: int
    levels: int

    @property
    def multiple(self) -> int:
        """Sides of the image for each one of the code."""
        return int(4 * 2**self.levels)

    def blurred(self, weights: Mapping[str, Tensor], x: Tensor, code: Tensor) -> Tensor:
        """Return the blurred images (B, C, Y, X), whose sides divide by `multiple`; values are meant in [0, 1]."""

        def conv(name: str, h: Tensor, stride: int = 1) -> Tensor:
            weight = weights[f"{name}.weight"]
            return F.conv2d(h, weight, weights.get(f"{name}.bias"), stride, padding=1)

        def doubled(name: str, h: Tensor) -> Tensor:
            return F.conv_transpose2d(h.relu(), weights[f"{name}.weight"], weights.get(f"{name}.bias"), 2, padding=1)

        def block(name: str, h: Tensor) -> Tensor:
            return h + conv(f"{name}.conv2", conv(f"{name}.conv1", h).relu())

        def adapted(level: int, h: Tensor) -> Tensor:
            # what is passed by is past the activation, which acts in place in the authors' code
            name, h = _level(level), F.leaky_relu(h, 0.2)
            low = conv(f"{name}down.1", h, 2)
            low = torch.cat([low, code], 1) if level == self.levels - 1 else adapted(level + 1, low)
            return torch.cat([doubled(f"{name}up.1", low), h], 1)

        h = x
        for index, stride in ((0, 1), (2, 2), (4, 2)):
            h = F.leaky_relu(conv(f"feature_extractor.{index}", h, stride), 0.1)
        for index in range(self.front):
            h = block(f"feature_extractor.{6 + index}", h)
        h = doubled("adapter.model.up.1", adapted(1, conv("adapter.model.down.0", h, 2))).tanh()
        for index in range(self.back):
            h = block(f"recon_trunk.{index}", h)
        for index in (self.back, self.back + 3):
            h = F.leaky_relu(F.pixel_shuffle(conv(f"recon_trunk.{index}", h), 2), 0.1)
        h = F.leaky_relu(conv(f"recon_trunk.{self.back + 6}", h), 0.1)
        return x + conv(f"recon_trunk.{self.back + 8}", h)


def infer_network(shapes: Shapes, name: str) -> KernelNetwork:
    """Return the network that tensors of these shapes fill.

    name: of their file, for errors. Raises ConfigError, naming the first tensor that is missing, too many or of another
    shape.
    """
    front, back = _count(shapes, "feature_extractor.{}.conv1.weight", 6), _count(shapes, "recon_trunk.{}.conv1.weight")
    levels = 1
    while f"{_level(levels)}down.1.weight" in shapes:
        levels += 1
    width, channels = _sides(shapes, MARKS[0], name)
    expected = _convolution("feature_extractor.0", width, channels)
    for index in (2, 4):
        expected |= _convolution(f"feature_extractor.{index}", width, width)
    for index in range(front):
        expected |= _block(f"feature_extractor.{6 + index}", width)
    above, code = width, 0
    for level in range(levels):
        down, up = f"{_level(level)}down.{min(level, 1)}.weight", f"{_level(level)}up.1.weight"
        side = _sides(shapes, down, name)[0]
        if level == levels - 1:
            code = _sides(shapes, up, name)[0] - side
        expected[down] = (side, above, 4, 4)
        # of the level below or, at the lowest, the code; beside what is passed by
        expected[up] = (side + (code if level == levels - 1 else side), above, 4, 4)
        above = side
    expected["adapter.model.up.1.bias"] = (width,)
    for index in range(back):
        expected |= _block(f"recon_trunk.{index}", width)
    above = width
    for index, shuffled in ((back, 4), (back + 3, 4), (back + 6, 1)):
        side = _sides(shapes, f"recon_trunk.{index}.weight", name)[0] // shuffled
        expected |= _convolution(f"recon_trunk.{index}", shuffled * side, above)
        above = side
    expected |= _convolution(f"recon_trunk.{back + 8}", channels, above)
    if code < 1 or levels < 2:
        raise ConfigError(f"{name}: {levels} levels of the network join a code of {code} channels", HINT)
    for key, shape in expected.items():
        if key not in shapes:
            raise ConfigError(f"{name} has no tensor {key}, expected with shape {shape}", HINT)
        if tuple(shapes[key]) != shape or min(shape) < 1:
            raise ConfigError(f"{name}: tensor {key} has shape {tuple(shapes[key])}, expected {shape}", HINT)
    for key in shapes:
        if key not in expected:
            raise ConfigError(f"{name} has a tensor {key[:80]!a} that the network does not have", HINT)
    return KernelNetwork(channels, code, front, back, levels)


def _level(level: int) -> str:
    return "adapter.model." + "submodule." * level


def _count(shapes: Shapes, form: str, first: int = 0) -> int:
    count = 0
    while form.format(first + count) in shapes:
        count += 1
    return count


def _sides(shapes: Shapes, key: str, name: str) -> tuple[int, int]:
    """Return the first two sides of a convolution's tensor."""
    if key not in shapes:
        raise ConfigError(f"{name} has no tensor {key}", HINT)
    if len(shapes[key]) != 4:
        raise ConfigError(f"{name}: tensor {key} has shape {tuple(shapes[key])}, expected four axes", HINT)
    return shapes[key][0], shapes[key][1]


def _convolution(name: str, out: int, inside: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inside, 3, 3), f"{name}.bias": (out,)}


def _block(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return _convolution(f"{name}.conv1", width, width) | _convolution(f"{name}.conv2", width, width)
