"""How a command ends: from whatever was raised to lines on stderr and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback

import typer

from recon.errors import ReconError

# Click may be vendored inside Typer, so its class of usage errors is reached through one that Typer exports
UsageFault: type[Exception] = typer.BadParameter.__mro__[1]

BUG = 1
RESOURCES = 7
INTERRUPTED = 130
PIPE_CLOSED = 141
TERMINATED = 143
NO_RESOURCES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENOMEM}


class Terminated(BaseException):
    """SIGTERM arrived."""


def finish(err: BaseException, debug: bool) -> int:
    """Print what the user must know about `err` to stderr; return the exit code."""
    if isinstance(err, typer.Exit):
        return err.exit_code
    if isinstance(err, UsageFault):
        err.show()  # type: ignore[attr-defined]
        return int(err.exit_code)  # type: ignore[attr-defined]
    if isinstance(err, BrokenPipeError):
        return PIPE_CLOSED
    if debug:
        traceback.print_exception(err)
    if isinstance(err, ReconError):
        complain(err.message, err.hint)
        return err.exit_code
    if isinstance(err, KeyboardInterrupt | typer.Abort | EOFError):
        print(_ending("interrupted", err), file=sys.stderr)
        return INTERRUPTED
    if isinstance(err, Terminated):
        print(_ending("terminated", err), file=sys.stderr)
        return TERMINATED
    if isinstance(err, OSError) and err.errno in NO_RESOURCES:
        complain(f"{err.strerror}: {err.filename}" if err.filename else str(err.strerror))
        return RESOURCES
    if out_of_memory(err):
        complain("out of memory", "fewer samples at once: --set run.chunk=1; a smaller image; or another --device")
        return RESOURCES
    complain(
        f"unexpected {type(err).__name__}: {_first_line(err)}", None if debug else "rerun with --debug and report it"
    )
    return BUG


def complain(message: str, hint: str | None = None) -> None:
    """Print an error, and what to do about it, to stderr."""
    print(f"recon: error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


def out_of_memory(err: BaseException) -> bool:
    """Whether Python or torch ran out of memory; torch says so by the name or the text of a RuntimeError."""
    if isinstance(err, MemoryError):
        return True
    torch_text = "can't allocate memory" in str(err) or "out of memory" in str(err).lower()
    return isinstance(err, RuntimeError) and (type(err).__name__ == "OutOfMemoryError" or torch_text)


def flush() -> None:
    """Flush stdout, where there is one. Raises BrokenPipeError if its reader is gone."""
    if sys.stdout is not None:
        sys.stdout.flush()


def leave_quietly() -> None:
    """Flush stdout; if its reader is gone, point it elsewhere so that Python's own flush at exit says nothing."""
    try:
        flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _ending(how: str, err: BaseException) -> str:
    """Return the last line of a command that was stopped, with what was saved."""
    return "; ".join([f"recon: {how}", *getattr(err, "__notes__", ())])


def _first_line(err: BaseException) -> str:
    return (str(err).splitlines() or [""])[0]
