"""`info` and `convert` on files and pipes."""

import io
import json
import os
import pty
import subprocess
import sys

import numpy as np
import pytest

from recon.errors import InputError, UsageError

APP = [sys.executable, "-c", "from recon.cli.main import app; app()"]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.npy"
    np.save(path, np.arange(12, dtype=np.uint16).reshape(3, 4))
    return path


def test_info_tells_shape_type_and_range(call, image):
    facts = json.loads(call("info", str(image), "--axes", "y,x", "--json"))
    assert (facts["format"], facts["shape"], facts["dtype"]) == ("npy", [3, 4], "uint16")
    assert (facts["min"], facts["max"], facts["axes"]) == (0, 11, ["y", "x"])
    rows = dict(line.split(maxsplit=1) for line in call("info", str(image)).splitlines())
    assert rows["shape"] == "3, 4" and rows["max"] == "11"


def test_info_of_what_is_no_image(call, tmp_path):
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(InputError):
        call("info", str(tmp_path / "note.txt"))


def test_convert_says_what_it_wrote(call, image, tmp_path):
    target = tmp_path / "image.tiff"
    facts = json.loads(call("convert", str(image), str(target), "--json"))
    assert facts["output"] == str(target) and facts["format"] == "tiff" and target.is_file()
    assert facts["shape"] == [3, 4]


def test_json_and_an_image_do_not_share_stdout(call, image):
    with pytest.raises(UsageError):
        call("convert", str(image), "-", "--json")


def test_images_go_through_pipes(image):
    out = subprocess.run(
        [*APP, "convert", "-", "-", "--dtype", "float32"], input=image.read_bytes(), capture_output=True
    )
    assert out.returncode == 0 and out.stderr == b""
    found = np.load(io.BytesIO(out.stdout), allow_pickle=False)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.load(image))


def test_a_terminal_gets_no_binary_data(image):
    ours, theirs = pty.openpty()
    done = subprocess.run([*APP, "convert", str(image), "-"], stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2 and "terminal" in done.stderr
