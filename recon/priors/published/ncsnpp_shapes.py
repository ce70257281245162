"""The architecture of an NCSN++, from the kinds, order and shapes of the modules in its list."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from recon.errors import ConfigError
from recon.priors.networks.ncsnpp import NCSNppConfig
from recon.priors.published.limits import printable
from recon.priors.published.weights import HINT

_KEY = re.compile(r"all_modules\.(\d{1,4})\.(.+)")


@dataclass(frozen=True)
class _Module:
    """One module: its kind, and the channels that it takes and gives."""

    kind: str
    c_in: int = 0
    c_out: int = 0


def infer_ncsnpp(weights: Mapping[str, Tensor], name: str) -> NCSNppConfig:
    """Return the configuration of an NCSN++. Raises ConfigError where the modules are not those of one."""
    modules = _modules(weights, name)
    if [m.kind for m in modules[:4]] != ["fourier", "linear", "linear", "conv"]:
        raise ConfigError(
            f"{name} does not start with Fourier features, two linear layers and a convolution",
            "only NCSN++ with continuous noise levels (VE) is known of score_sde's networks",
        )
    width = modules[1].c_in // 2
    rest = modules[4:]
    downs = [i for i, m in enumerate(rest) if m.kind == "resampling block"]
    levels = len(downs) // 2 + 1
    first = rest[: downs[0]] if downs else rest[: _middle(rest, name)]
    blocks = sum(m.kind == "block" for m in first)
    if not width or blocks * levels > len(rest):
        raise ConfigError(f"{name} names no width, or more blocks than it has modules", HINT)
    multipliers, attention = [], []
    at = 0
    for level in range(levels):
        inside: list[_Module] = []
        while at < len(rest) and sum(m.kind == "block" for m in inside) < blocks:
            inside.append(rest[at])
            at += 1
        if not inside or inside[-1].c_out % width:
            raise ConfigError(f"{name}: level {level} has no blocks, or a width that is no multiple of {width}", HINT)
        multipliers.append(inside[-1].c_out // width)
        if at < len(rest) and rest[at].kind == "attention":
            attention.append(level)
        # the next level begins behind its resampling block and, where there is one, the layer that takes the image
        if level + 1 < levels:
            at = downs[level] + 1
            at += at < len(rest) and rest[at].kind in ("combine", "strided")
    kinds = {m.kind for m in rest}
    return NCSNppConfig(
        channels=modules[3].c_in,
        width=width,
        multipliers=tuple(multipliers),
        blocks=blocks,
        attention=tuple(attention),
        image_in="input_skip" if "combine" in kinds else "residual" if "strided" in kinds else "none",
        image_out="output_skip" if sum(m.kind == "norm" for m in rest) > 1 else "none",
    )


def _middle(rest: list[_Module], name: str) -> int:
    """Return where the middle (block, attention, block) begins in a network of one level."""
    joins = next((i for i, m in enumerate(rest) if m.kind == "block" and m.c_in > m.c_out), 0)
    if joins < 3:
        raise ConfigError(f"{name} has no middle of two blocks and attention", HINT)
    return joins - 3


def _modules(weights: Mapping[str, Tensor], name: str) -> list[_Module]:
    """Return the modules in their order."""
    groups: dict[int, dict[str, tuple[int, ...]]] = {}
    for key, value in weights.items():
        found = _KEY.fullmatch(key)
        if found is None:
            raise ConfigError(f"{name} has a tensor {printable(key)} that an NCSN++ does not have", HINT)
        groups.setdefault(int(found[1]), {})[found[2]] = tuple(value.shape)
    if sorted(groups) != list(range(len(groups))):
        missing = min(set(range(max(groups, default=0) + 1)) - set(groups), default=0)
        raise ConfigError(f"{name} has no tensors of all_modules.{missing}", HINT)
    return [_module(groups[i], f"{name}: all_modules.{i}") for i in range(len(groups))]


def _module(shapes: dict[str, tuple[int, ...]], where: str) -> _Module:
    if "GroupNorm_0.weight" in shapes and "NIN_3.W" in shapes:
        return _Module("attention")
    if "Dense_0.weight" in shapes and len(conv := shapes.get("Conv_0.weight", ())) == 4:
        # a block of equal widths needs no 1x1 convolution beside it, unless it resamples
        kind = "resampling block" if "Conv_2.weight" in shapes and conv[0] == conv[1] else "block"
        return _Module(kind, conv[1], conv[0])
    for key, kind in (("Conv2d_0.weight", "strided"), ("Conv_0.weight", "combine"), ("weight", "conv")):
        if len(shape := shapes.get(key, ())) == 4:
            return _Module(kind, shape[1], shape[0])
    shape = shapes.get("weight", ())
    if len(shape) in (1, 2):
        return _Module("linear", shape[1], shape[0]) if len(shape) == 2 else _Module("norm")
    if set(shapes) == {"W"}:
        return _Module("fourier")
    raise ConfigError(f"{where} is of no known kind: it has {', '.join(sorted(shapes)[:4])}", HINT)
