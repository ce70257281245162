"""The families of published checkpoints, in the order in which they are tried.

A family is a module with three functions:

    matches(content) -> bool             whether this content is of the family; cheap, and never raises
    describe(content) -> dict            JSON-able facts for `recon priors show`: architecture, channels, sizes, ...
    load(content, name) -> Denoiser      the denoiser, float32 on the CPU; ConfigError where tensors do not fit

`content` is what `reader.read_checkpoint` returns (see `content.py`). The denoiser that `load` returns has three
attributes beside those of the contract, so that `recon.priors.store` can write it in our own format:

    network          an nn.Module with `config`, a frozen dataclass of its architecture
    settings         dict of JSON-able keywords: `type(denoiser)(network, info, **settings)` builds it again

and both classes are listed in `recon.priors.store`.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from recon.errors import ConfigError
from recon.priors.base import Denoiser
from recon.priors.published.content import Folder
from recon.priors.published.limits import printable

# name -> (module, what it is recognised by)
FAMILIES: dict[str, tuple[str, str]] = {
    "edm": (
        "recon.priors.published.edm",
        "EDM and InverseBench (SongUNet, DhariwalUNet): a record EDMPrecond, VPPrecond, ... or model.map_layer0.weight",
    ),
    "score_sde": ("recon.priors.published.ncsnpp", "score_sde (NCSN++): module.all_modules.0.W"),
    "adm": ("recon.priors.published.adm", "guided-diffusion (ADM): input_blocks.0.0.weight, out.2.weight"),
    "diffusers": ("recon.priors.published.diffusers", "diffusers (UNet2DModel): a folder with unet/config.json"),
    "denoiser": (
        "recon.priors.published.denoisers",
        "FFDNet: model.0.weight of 4 C + 1 channels; DRUNet: m_head.weight, m_tail.weight",
    ),
}


class Family(Protocol):
    """One family of published checkpoints; a module with these functions is one."""

    def matches(self, content: Any) -> bool:
        """Tell whether a checkpoint is of this family."""

    def describe(self, content: Any) -> dict[str, Any]:
        """Return JSON-able facts about the checkpoint's network."""

    def load(self, content: Any, name: str) -> Denoiser:
        """Return the denoiser, in float32 on the CPU."""


def family(name: str) -> Family:
    """Return the module of a family."""
    found: Family = importlib.import_module(FAMILIES[name][0])
    return found


def identify(content: Any, name: str) -> str:
    """Return the name of the first family that a checkpoint's content matches.

    name: of the file, for the error. Raises ConfigError, naming what was looked for, if none matches.
    """
    for found in FAMILIES:
        if family(found).matches(content):
            return found
    raise ConfigError(
        f"{name} is no checkpoint of a known family: it holds {_summary(content)}",
        "looked for: " + "; ".join(sign for _, sign in FAMILIES.values()),
    )


def _summary(content: Any) -> str:
    if isinstance(content, dict):
        keys = [printable(key) for key in list(content)[:4]]
        return f"a mapping of {len(content)}: {', '.join(keys)}" + (", ..." if len(content) > 4 else "")
    if isinstance(content, Folder):
        names = ", ".join(content.names[:4])
        return f"{len(content.names)} files: {names}" + (", ..." if len(content.names) > 4 else "")
    return f"a {type(content).__name__}"
