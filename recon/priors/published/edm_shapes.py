"""The architecture of a DhariwalUNet or SongUNet, from the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from recon.errors import ConfigError
from recon.priors.networks.dhariwal import DhariwalConfig
from recon.priors.networks.song import SongConfig
from recon.priors.published.weights import HINT

_BLOCK = re.compile(r"enc\.(\d{1,6})x\1_block(\d{1,4})\.conv0\.weight")
_STEM = re.compile(r"enc\.(\d{1,6})x\1_conv\.weight")


class _Shapes:
    """Shapes by name; a missing one is an error that names it."""

    def __init__(self, weights: Mapping[str, Tensor], name: str) -> None:
        self.weights, self.name = weights, name

    def of(self, key: str, dimensions: int) -> tuple[int, ...]:
        if key not in self.weights:
            raise ConfigError(f"{self.name} has no tensor {key}", HINT)
        shape = tuple(self.weights[key].shape)
        if len(shape) != dimensions or 0 in shape:
            raise ConfigError(f"{self.name}: tensor {key} has shape {shape}, expected {dimensions} dimensions", HINT)
        return shape

    def columns(self, key: str) -> int:
        """Width that an optional linear layer takes; 0 without the layer."""
        return self.of(key, 2)[1] if key in self.weights else 0


def infer_dhariwal(weights: Mapping[str, Tensor], name: str) -> DhariwalConfig:
    """Return the configuration of a DhariwalUNet. Raises ConfigError naming a tensor that it needs."""
    shapes = _Shapes(weights, name)
    emb, channels = shapes.of("map_layer0.weight", 2)
    common = _common(shapes, channels, emb)
    return DhariwalConfig(out_channels=shapes.of("out_conv.weight", 4)[0], channels=channels, **common)


def infer_song(weights: Mapping[str, Tensor], name: str) -> SongConfig:
    """Return the configuration of a SongUNet. Raises ConfigError naming a tensor that it needs."""
    shapes = _Shapes(weights, name)
    emb, noise = shapes.of("map_layer0.weight", 2)
    channels = shapes.of(f"enc.{_stem(shapes)}.weight", 4)[0]
    common = _common(shapes, channels, emb)
    side = common["size"]
    filters = [key for key in weights if key.endswith(".resample_filter")]
    return SongConfig(
        out_channels=shapes.of(f"dec.{side}x{side}_aux_conv.weight", 4)[0],
        channels=channels,
        noise=_times(shapes, "map_layer0.weight", noise, channels),
        features="fourier" if "map_noise.freqs" in weights else "positional",
        encoder=_kind(weights, "enc.", {"_aux_residual.weight": "residual", "_aux_skip.weight": "skip"}),
        decoder=_kind(weights, "dec.", {"_aux_up.resample_filter": "skip"}),
        taps=_taps(shapes, filters[0]) if filters else (1.0, 1.0),
        **common,
    )


def _common(shapes: _Shapes, channels: int, emb: int) -> dict[str, Any]:
    """Return what both architectures have."""
    stem = _stem(shapes)
    side = int(stem.partition("x")[0])
    counts = Counter(found[1] for key in shapes.weights if (found := _BLOCK.fullmatch(key)))
    blocks = max(counts.values(), default=0)
    levels = 1
    while side >> levels and f"enc.{side >> levels}x{side >> levels}_down.conv0.weight" in shapes.weights:
        levels += 1
    if blocks * levels > len(shapes.weights):
        raise ConfigError(f"{shapes.name} names more blocks than it has tensors", HINT)
    sides = [side >> level for level in range(levels)]
    # the decoder has one block a level more than the encoder, which may have none
    wide = {at: f"dec.{at}x{at}_block0.conv0.weight" for at in sides}
    return {
        "size": side,
        "in_channels": shapes.of(f"enc.{stem}.weight", 4)[1],
        "multipliers": tuple(_times(shapes, key, shapes.of(key, 4)[0], channels) for key in wide.values()),
        "blocks": blocks,
        "attention": tuple(at for at in sides if f"dec.{at}x{at}_block{blocks}.qkv.weight" in shapes.weights),
        "embedding": _times(shapes, "map_layer0.weight", emb, channels),
        "labels": shapes.columns("map_label.weight"),
        "augment": shapes.columns("map_augment.weight"),
    }


def _stem(shapes: _Shapes) -> str:
    """Return "SxS_conv", the first convolution, named by the image's side S."""
    for key in shapes.weights:
        if found := _STEM.fullmatch(key):
            return f"{found[1]}x{found[1]}_conv"
    raise ConfigError(f"{shapes.name} has no first convolution, enc.SxS_conv.weight for images of side S", HINT)


def _times(shapes: _Shapes, key: str, width: int, base: int) -> int:
    if width % base:
        raise ConfigError(
            f"{shapes.name}: tensor {key} has {width} channels, no multiple of the base width {base}", HINT
        )
    return width // base


def _kind(weights: Mapping[str, Tensor], prefix: str, ends: dict[str, str]) -> str:
    for end, kind in ends.items():
        if any(key.startswith(prefix) and key.endswith(end) for key in weights):
            return kind
    return "standard"


def _taps(shapes: _Shapes, key: str) -> tuple[float, ...]:
    """Return the taps of a separable filter (1, 1, K, K), with sum 1."""
    side = shapes.of(key, 4)[-1]
    if side > 16:
        raise ConfigError(f"{shapes.name}: tensor {key} has {side} taps, expected at most 16", HINT)
    return tuple(shapes.weights[key][0, 0].double().sum(dim=0).tolist())
