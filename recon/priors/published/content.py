"""What a checkpoint holds once it is read: plain values, tensors, inert records and folders.

`recon.priors.published.reader.read_checkpoint` returns dict, list, tuple, set, str, bytes, int, float, complex, bool,
None, torch.Tensor, torch.dtype, torch.Size (as a tuple), `Record`, or, for a folder, `Folder`. It is finite: no value
contains itself, and the depth and the number of entries, shared ones counted each time, are bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Record:
    """An object of a file, made inert: the name of its class and what it was made of; nothing of it ever runs.

    class_name: of a persistent class (EDM) its bare name, such as "EDMPrecond"; else "module.Class".
    args, kwargs: constructor arguments, where the file holds them (persistent classes).
    state: the object's attributes; for a torch module `_parameters`, `_buffers` and `_modules` are among them.
    """

    class_name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] | None = None


@dataclass(frozen=True)
class Folder:
    """A folder of a published model: the names of its files, and how one of them is read.

    names: paths inside it, with "/" (for instance "unet/config.json"), at most two folders deep, sorted.
    read: name -> content, as `read_checkpoint`; a .json file becomes plain values.
    """

    name: str
    names: tuple[str, ...]
    read: Callable[[str], Any]
