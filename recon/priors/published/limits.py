"""Bounds on what a checkpoint may ask for, and the errors that name what is refused.

Memory stays proportional to the file: storages are counted against the file's bytes, values against a fixed number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from recon.errors import InputError

# a torch checkpoint takes about 20 pickle operations a tensor; the largest published ones stay below 200,000
MAX_OPERATIONS = 2_000_000
MAX_DEPTH = 100
MAX_ENTRIES = 10_000_000
MAX_DIRECTORY_BYTES = 16 * 2**20
MAX_JSON_BYTES = 4 * 2**20
MAX_DIMENSIONS = 16
MAX_SIDE = 2**40
SLACK_BYTES = 2**20

HINT = "nothing in a checkpoint is executed; give one with tensors and plain values alone (a state dict)"


class Damaged(Exception):
    """The bytes do not make sense; the reader turns it into one InputError that names the file."""


def refused(what: str) -> InputError:
    """Return the error for something that a checkpoint asks for and that is never done."""
    return InputError(f"the checkpoint asks for {printable(what)}, which is refused", HINT)


def printable(name: object) -> str:
    """Return a name from a file as short, visible ASCII."""
    text = "".join(c if c.isascii() and c.isprintable() else "?" for c in str(name)[:81])
    return text if len(text) <= 80 else text[:77] + "..."


@dataclass
class Budget:
    """Counts what a file of `size` bytes has made so far.

    Bytes of storages, arrays and copied strings may not exceed twice the file; those of tensors, which are views of
    storages, eight times.
    """

    size: int
    copied: int = field(default=0, init=False)
    viewed: int = field(default=0, init=False)
    operations: int = field(default=0, init=False)

    def copy(self, count: int) -> None:
        """Count bytes about to be allocated."""
        self.copied += count
        if self.copied > 2 * self.size + SLACK_BYTES:
            raise refused("more memory than the file has bytes")

    def view(self, count: int) -> None:
        """Count bytes of a tensor that shares a storage."""
        self.viewed += count
        if self.viewed > 8 * self.size + SLACK_BYTES:
            raise refused("tensors larger than the file")

    def work(self, count: int) -> None:
        """Count operations, or entries about to be copied."""
        self.operations += count
        if self.operations > MAX_OPERATIONS:
            raise refused(f"more than {MAX_OPERATIONS} values")
