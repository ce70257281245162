"""What is printed where: tables, JSON, terminals, progress."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from recon.cli.output import print_facts, print_json, print_table, text_of
from recon.cli.progress import Lines, duration, progress

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m|\x1b\[[0-9;]*38;")
APP = [sys.executable, "-c", "from recon.cli.main import app; app()"]
BAR = """
import sys, types
from recon.cli.progress import progress
with progress("run") as report:
    for i in range(1, 41):
        report(types.SimpleNamespace(done=i, total=40, sigma=1.0 / i))
print("result")
"""


@dataclass
class Reached:
    done: int
    total: int
    sigma: float


def on_terminal(command: list[str], stream: str, **environ: str) -> tuple[int, str, str]:
    """Run with one stream on a pseudo terminal; return the code, what the terminal got, what the other stream got."""
    ours, theirs = pty.openpty()
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    child = subprocess.Popen(
        command, **{stream: theirs, other: subprocess.PIPE}, env={**clean, "TERM": "xterm-256color", **environ}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    _, rest = child.communicate() if other == "stderr" else reversed(child.communicate())
    os.close(ours)
    return child.returncode, shown.decode(), (rest or b"").decode()


def test_json_is_strict_whatever_comes_in():
    out = io.StringIO()
    stdout, sys.stdout = sys.stdout, out
    try:
        print_json({"psnr": float("inf"), "n": np.float32(0.5), "a": np.arange(2), "s": {"b", "a"}, 3: (None, True)})
    finally:
        sys.stdout = stdout
    found = json.loads(out.getvalue(), parse_constant=pytest.fail)
    assert found == {"psnr": None, "n": 0.5, "a": [0, 1], "s": ["a", "b"], "3": [None, True]}


def test_a_plain_table_is_aligned_and_has_no_trailing_blanks():
    out = io.StringIO()
    print_table(("name", "value"), [("a", 1.0), ("longer", None)], out)
    assert out.getvalue() == "name    value\na       1\nlonger  -\n"


def test_facts_leave_out_what_is_empty_and_indent_lines():
    out = io.StringIO()
    print_facts({"a": 1, "long": "x\ny", "none": None, "list": [], "zero": 0, "no": False}, out)
    assert out.getvalue() == "a     1\nlong  x\n      y\nzero  0\nno    no\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1 + 0.2, "0.3"), (1e-7, "1e-07"), ([1, "a"], "1, a"), ({"b": 1}, "b 1"), (frozenset({"b", "a"}), "a, b")],
)
def test_values_as_a_person_reads_them(value, text):
    assert text_of(value) == text


def test_a_table_on_a_terminal_is_drawn_in_colour_unless_no_color():
    command = [*APP, "methods", "list"]
    code, shown, errors = on_terminal(command, "stdout")
    assert code == 0 and errors == "" and COLOUR.search(shown) and "tikhonov" in shown
    _, shown, _ = on_terminal(command, "stdout", NO_COLOR="1")
    assert not COLOUR.search(shown) and "tikhonov" in shown
    _, shown, _ = on_terminal(command, "stdout", TERM="dumb")
    assert "\x1b" not in shown


def test_json_on_a_terminal_is_plain():
    code, shown, _ = on_terminal([*APP, "methods", "list", "--json"], "stdout")
    assert code == 0 and "\x1b" not in shown and "methods" in json.loads(shown)


def test_brackets_in_a_table_are_not_markup():
    code = "from recon.cli.output import print_table; print_table(('[bold]x',), [('[red]y[/red]',)])"
    _, shown, _ = on_terminal([sys.executable, "-c", code], "stdout")
    assert "[bold]x" in shown and "[red]y[/red]" in shown


def test_progress_on_a_terminal_is_a_bar_on_stderr_alone():
    code, shown, result = on_terminal([sys.executable, "-c", BAR], "stderr")
    assert code == 0 and result == "result\n"
    assert "40/40" in shown and "sigma 0.025" in shown and COLOUR.search(shown)
    assert "run: step" not in shown
    _, shown, _ = on_terminal([sys.executable, "-c", BAR], "stderr", NO_COLOR="1")
    assert "40/40" in shown and not COLOUR.search(shown)


def test_progress_elsewhere_is_ten_plain_lines():
    done = subprocess.run([sys.executable, "-c", BAR], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert done.stdout == "result\n" and "\x1b" not in done.stderr
    assert len(lines) == 10
    assert re.fullmatch(r"run: step 4/40 sigma 0\.25 eta \d+s", lines[0])
    assert lines[-1].startswith("run: step 40/40 sigma 0.025")


def test_quiet_progress_prints_nothing():
    out = io.StringIO()
    with progress("run", quiet=True, stream=out) as report:
        report(Reached(1, 1, 0.0))
    assert out.getvalue() == ""


def test_a_minute_without_a_tenth_gives_a_line_too():
    now = [0.0]
    out = io.StringIO()
    lines = Lines("run", out, clock=lambda: now[0])
    for step in range(1, 7):
        now[0] += 25.0
        lines.report(Reached(step, 1000, 2.0))
    # at 75 s, and again at 150 s
    assert out.getvalue().splitlines() == ["run: step 3/1000 sigma 2 eta 6h55m", "run: step 6/1000 sigma 2 eta 6h54m"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.4, "59s"), (59.6, "1m"), (185, "3m"), (3575, "1h00m"), (3900, "1h05m")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_binary_data_is_refused_by_a_terminal():
    code = "from recon.io.atomic import write_bytes; write_bytes('-', b'x')"
    _, _, errors = on_terminal([sys.executable, "-c", code], "stdout")
    assert "UsageError: binary data will not be written to a terminal" in errors
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"x"
