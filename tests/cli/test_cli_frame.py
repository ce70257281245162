"""The frame of the command line: help, start-up, common options, and how a command ends."""

import errno
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import typer

from recon.cli.exits import Terminated, finish
from recon.cli.lazy import Entry, lazy_app
from recon.cli.main import COMMANDS, EPILOG, root
from recon.cli.options import Quiet, Session
from recon.errors import BatchError, ConfigError, InputError, ReconError, ThresholdError

RECON = [sys.executable, "-c", "from recon.cli.main import app; app()"]
HEAVY = ("torch", "numpy", "rich", "scipy", "h5py", "nibabel", "skimage")


def recon(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own."""
    return subprocess.run([*RECON, *arguments], capture_output=True, text=True, env={**os.environ, **environ})


def test_help_names_every_command_and_exit_code():
    done = recon("--help")
    assert done.returncode == 0 and done.stderr == ""
    for name, entry in COMMANDS.items():
        assert f"  {name} " in done.stdout and entry.help in done.stdout, name
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130, 143):
        assert str(code) in done.stdout.partition("Exit codes:")[2]


def test_the_installed_command_is_this_one():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("recon")), "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == recon("--version").stdout
    assert done.stdout.startswith("recon ")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["presets", "list"], ["methods", "list"], ["presets", "show", "sr4-dps"]]
)
def test_nothing_heavy_is_imported_for(arguments):
    code = (
        "import sys, recon.cli.main as m; sys.argv = ['recon', *sys.argv[1:]]\n"
        "try: m.app()\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")


def test_the_help_of_every_command_shows_its_parameters_without_torch():
    code = (
        "import sys, io, contextlib, recon.cli.main as m\n"
        "for name in m.COMMANDS:\n"
        "    sys.argv, out = ['recon', name, '--help'], io.StringIO()\n"
        "    try:\n"
        "        with contextlib.redirect_stdout(out): m.app()\n"
        "    except SystemExit as e: assert not e.code, name\n"
        "    assert 'Usage: recon ' + name in out.getvalue() and '--help' in out.getvalue(), name\n"
        f"    assert not [m for m in {HEAVY} if m in sys.modules], name\n"
        "print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "done", done.stderr


def test_without_arguments_help_comes_with_the_code_of_wrong_usage():
    done = recon()
    assert done.returncode == 2 and "Usage: recon" in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["presetss"], "No such command 'presetss'. Did you mean 'presets'?"),
        (["presets", "list", "--jsn"], "No such option"),
        (["presets", "show"], "Missing argument"),
        (["config", "show"], "needs one preset"),
    ],
)
def test_wrong_usage_is_2_and_goes_to_stderr(arguments, message):
    done = recon(*arguments)
    assert done.returncode == 2 and message in done.stderr and done.stdout == ""


def test_an_error_is_one_line_and_a_hint():
    done = recon("presets", "show", "mri-x4-dd")
    assert done.returncode == 4 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "recon: error: unknown preset 'mri-x4-dd'; did you mean 'mri-x4-dds'?",
        "hint: see: recon presets list",
    ]


@pytest.mark.parametrize("arguments", [["--debug", "presets", "show", "no"], ["presets", "show", "no", "--debug"]])
def test_debug_shows_the_traceback_before_or_after_the_command(arguments):
    done = recon(*arguments)
    assert done.returncode == 4
    assert "Traceback" in done.stderr and "recon: error: unknown preset 'no'" in done.stderr


def probe_app(monkeypatch: pytest.MonkeyPatch, function: object):
    """Return the root group with one command `probe`."""
    monkeypatch.setitem(sys.modules, "recon.cli.probe", types.SimpleNamespace(probe=function))
    return lazy_app(root, {"probe": Entry("probe:probe", "a probe")}, EPILOG)


@pytest.mark.parametrize(
    ("arguments", "quiet"),
    [(["probe"], False), (["-q", "probe"], True), (["probe", "-q"], True), (["--quiet", "probe", "--debug"], True)],
)
def test_quiet_counts_before_and_after_a_command(monkeypatch, arguments, quiet):
    seen = []

    def probe(quiet: Quiet = False) -> None:
        seen.append(quiet)

    session = Session()
    with probe_app(monkeypatch, probe).make_context("recon", list(arguments), obj=session) as context:
        context.command.invoke(context)
    assert seen == [quiet] and session.quiet is quiet and session.debug is ("--debug" in arguments)


def test_a_command_that_declares_no_common_option_takes_them_all_the_same(monkeypatch):
    calls = []

    def probe() -> None:
        calls.append(1)

    session = Session()
    with probe_app(monkeypatch, probe).make_context("recon", ["probe", "-q", "--debug"], obj=session) as context:
        context.command.invoke(context)
    assert calls == [1] and session == Session(quiet=True, debug=True)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("bad shape", "fix it"), 3, "recon: error: bad shape\nhint: fix it\n"),
        (ConfigError("bad key"), 4, "recon: error: bad key\n"),
        (ThresholdError("psnr 20 < 30"), 8, "recon: error: psnr 20 < 30\n"),
        (BatchError("2 of 3 failed"), 9, "recon: error: 2 of 3 failed\n"),
        (typer.Exit(8), 8, ""),
        (KeyboardInterrupt(), 130, "recon: interrupted\n"),
        (Terminated(), 143, "recon: terminated\n"),
        (BrokenPipeError(), 141, ""),
        (MemoryError(), 7, "recon: error: out of memory\n"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 7, "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 7, "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), 7, "recon: error: No space left on device\n"),
        (TypeError("boom\nsecond line"), 1, "recon: error: unexpected TypeError: boom\nhint: rerun with --debug"),
        (RuntimeError("shapes differ"), 1, "recon: error: unexpected RuntimeError: shapes differ\n"),
        (PermissionError(errno.EACCES, "denied", "f"), 1, "unexpected PermissionError"),
    ],
)
def test_each_error_has_its_code_and_lines(capsys, error, code, line):
    assert finish(error, debug=False) == code
    printed = capsys.readouterr()
    assert printed.out == "" and (line in printed.err if line else printed.err == "")
    assert "Traceback" not in printed.err


def test_every_error_class_has_a_code_of_the_table():
    classes = ReconError.__subclasses__()
    assert sorted(cls.exit_code for cls in classes) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert finish(BatchError("x"), debug=True) == 9


WAITING = """
import sys, time, types
import recon.cli.main as main
from recon.cli.lazy import Entry

def probe() -> None:
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)

sys.modules["recon.cli.probe"] = types.SimpleNamespace(probe=probe)
main.COMMANDS["probe"] = Entry("probe:probe", "waits")
sys.argv = ["recon", "probe"]
main.app()
"""


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [(signal.SIGTERM, 143, "recon: terminated\n"), (signal.SIGINT, 130, "recon: interrupted\n")],
)
def test_a_signal_lets_a_command_clean_up_and_has_its_code(number, code, line):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", WAITING], **pipes) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (code, "cleaned up\n", line)


def test_a_reader_that_goes_away_is_no_error():
    child = subprocess.Popen([*RECON, "methods", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    assert child.wait(timeout=60) == 141
    assert child.stderr.read() == b""
    child.stderr.close()


def test_completion_answers_from_names_alone():
    environ = {"_RECON_COMPLETE": "complete_bash", "COMP_WORDS": "recon presets show mri-x4-dds", "COMP_CWORD": "3"}
    done = recon(**environ)
    assert done.stdout.split() == ["mri-x4-dds", "mri-x4-dds-3d"]
    done = recon(**{**environ, "COMP_WORDS": "recon pre", "COMP_CWORD": "1"})
    assert done.stdout.split() == ["presets"]


def test_json_is_one_object_and_notices_stay_off_stdout():
    done = recon("methods", "list", "--json")
    assert isinstance(json.loads(done.stdout), dict) and done.stderr == ""
