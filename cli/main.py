"""The command `recon`: the table of its commands, and how a command ends.

A command's module is imported when it is called or its own help is asked for; `recon --help` and shell completion of
names read the table alone.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from recon import __version__

from .exits import Terminated, finish, flush, leave_quietly
from .lazy import Entry, lazy_app
from .options import Debug, Quiet, Session

EPILOG = """\b
Exit codes:
  0  success
  1  unexpected error (a bug)
  2  wrong usage
  3  input unreadable, or of the wrong shape, axes or values
  4  configuration, preset, operator, method or prior invalid
  5  output exists (overwrite with --force)
  6  numerical failure
  7  resource missing, or out of memory
  8  threshold of --fail-if met, or a bar of audit --strict missed
  9  batch partly failed
  130, 141, 143  interrupted, output pipe closed, terminated
"""

# name -> module:object (a function, or a Typer app for a group), and the line that `recon --help` shows
COMMANDS = {
    "run": Entry("run:run", "Reconstruct an image from a measurement."),
    "simulate": Entry("simulate:simulate", "Make a measurement of an image: forward operator and noise."),
    "eval": Entry("evaluate:evaluate", "Score a reconstruction against the truth."),
    "view": Entry("view:view", "Draw images, errors and maps side by side as a PNG."),
    "check": Entry("check:check", "Check a preset, and an input, before running."),
    "batch": Entry("batch:batch", "Reconstruct every input of a manifest."),
    "rerun": Entry("rerun:rerun", "Repeat a reconstruction from its JSON sidecar."),
    "demo": Entry("demo:demo", "Simulate, reconstruct, score and view a shipped sample."),
    "info": Entry("info:info", "Describe a file: format, axes, shape, units."),
    "convert": Entry("convert:convert", "Convert an image between formats."),
    "presets": Entry("presets:app", "List and show presets: problem, prior and method together."),
    "methods": Entry("methods:app", "List and show methods and their settings."),
    "operators": Entry("operators:app", "List and show forward operators and their parameters."),
    "priors": Entry("priors:app", "List and show diffusion priors."),
    "config": Entry("config:app", "Show the resolved configuration and the origin of each value."),
    "samples": Entry("samples:app", "List and copy small sample images."),
    "train": Entry("train:train", "Train a prior."),
    "audit": Entry("audit:audit", "Hold methods against exact posteriors; calibrate."),
    "doctor": Entry("doctor:doctor", "Report on devices, memory, versions and weights."),
}


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        typer.echo(f"recon {__version__}")
        raise typer.Exit()


def root(
    quiet: Quiet = False,
    debug: Debug = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Reconstruct images and volumes from indirect measurements by posterior sampling under diffusion priors."""


def app() -> None:
    """Run the command line and exit with its code."""
    # read when torch loads OpenMP: threads that spin at barriers make a busy machine many times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command = lazy_app(root, COMMANDS, EPILOG)
    if "_RECON_COMPLETE" in os.environ:
        command.main(prog_name="recon")
    session = Session()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a name that the terminal cannot show must not stop a command
        sys.stdout.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with command.make_context("recon", sys.argv[1:], obj=session) as context:
            command.invoke(context)
        flush()
    except BaseException as err:
        code = finish(err, debug=session.debug)
        leave_quietly()
        sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> None:
    """Turn SIGTERM into an exception, so that temporary files are removed and state is saved on the way out."""
    raise Terminated
