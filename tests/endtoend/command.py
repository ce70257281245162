"""The installed command, called in a folder as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

RECON = Path(sys.executable).parent / "recon"
# few network evaluations: these tests are about files and streams, not about quality
FEW = {"RECON_METHOD__STEPS": "3", "RECON_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Ended:
    """How a call of the command ended."""

    code: int
    out: bytes
    err: str


@dataclass(frozen=True)
class Site:
    """A folder with small inputs, and the command run inside it."""

    folder: Path

    def __call__(self, *arguments: str, stdin: bytes | None = None, few: bool = True) -> Ended:
        """Run `recon ARGUMENTS` in the folder."""
        done = subprocess.run(
            [str(RECON), *arguments],
            cwd=self.folder,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            env=environment(few),
            timeout=240,
        )
        return Ended(done.returncode, done.stdout, done.stderr.decode())

    def files(self) -> set[str]:
        """Return the names of all files in the folder and below."""
        return {str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()}


def environment(few: bool = True) -> dict[str, str]:
    """Return an environment without the user's own settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RECON_")}
    return kept | {"XDG_CONFIG_HOME": "/nonexistent"} | (FEW if few else {})
