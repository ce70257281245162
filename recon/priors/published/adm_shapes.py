"""The architecture of a guided-diffusion network, from the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from recon.errors import ConfigError
from recon.priors.networks.adm import ADMConfig
from recon.priors.published.limits import refused

HEAD_CHANNELS = 64
# heads of the authors' default, for widths that 64 does not divide
HEADS = 4
MAX_BLOCKS = 1000

_OUTPUT = re.compile(r"output_blocks\.(\d+)\.(\d+)\.(in_layers\.2|conv|qkv)\.weight")


def infer_adm(tensors: Mapping[str, Tensor], name: str) -> ADMConfig:
    """Return the architecture that the tensors describe; whether all of them fit it is checked when they are loaded.

    The first output block that ends in a resampling layer closes the lowest level: its place is the number of residual
    blocks a level. name: of the file. Raises ConfigError where tensors are missing or of another kind.
    """
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}

    def shape(key: str, dimensions: int) -> tuple[int, ...]:
        if len(shapes.get(key, ())) != dimensions:
            raise ConfigError(
                f"{name}: expected a tensor {key} of {dimensions} dimensions, got {shapes.get(key, 'none')}",
                "the checkpoint is incomplete, or of another architecture",
            )
        return shapes[key]

    layers: dict[int, dict[int, str]] = {}
    for key in shapes:
        if found := _OUTPUT.fullmatch(key):
            if len(found[1]) > 4 or len(found[2]) > 1 or int(found[1]) >= MAX_BLOCKS:
                raise refused(f"more than {MAX_BLOCKS} blocks")
            layers.setdefault(int(found[1]), {})[int(found[2])] = found[3]
    # the first layer of a block is residual; a later one is attention or resamples
    ups = [block for block in sorted(layers) if any(i and kind != "qkv" for i, kind in layers[block].items())]
    blocks = (ups[0] if ups else len(layers) - 1) or 1
    levels = len(ups) + 1
    if len(layers) != levels * (blocks + 1):
        raise ConfigError(f"{name}: {len(layers)} output blocks do not make {levels} levels of {blocks + 1}")

    first = [1 + level * (blocks + 1) for level in range(levels)]
    widths = tuple(shape(f"input_blocks.{i}.0.out_layers.3.weight", 4)[0] for i in first)
    attention = tuple(level for level, i in enumerate(first) if f"input_blocks.{i}.1.qkv.weight" in shapes)
    split = all(widths[level] % HEAD_CHANNELS == 0 for level in (*attention, levels - 1))
    inner = shape("input_blocks.1.0.emb_layers.1.weight", 2)[0]
    return ADMConfig(
        in_channels=shape("input_blocks.0.0.weight", 4)[1],
        out_channels=shape("out.2.weight", 4)[0],
        channels=shape("time_embed.0.weight", 2)[1],
        widths=widths,
        blocks=blocks,
        attention=attention,
        heads=0 if split else HEADS,
        head_channels=HEAD_CHANNELS,
        scale_shift=inner == 2 * widths[0],
        resample_blocks=levels == 1 or f"input_blocks.{first[1] - 1}.0.op.weight" not in shapes,
        labels=shape("label_emb.weight", 2)[0] if "label_emb.weight" in shapes else 0,
    )
