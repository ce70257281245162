"""Manifests: tables, folders and patterns; what is wrong with one is told before any work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.errors import ConfigError, InputError, UsageError
from recon.runs.manifest import BatchItem, part_of, read_manifest


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for name in ("b.npy", "a.npy", "c.nii.gz"):
        np.save(tmp_path / "x.npy", np.zeros((4, 4), np.float32))
        (tmp_path / "x.npy").rename(tmp_path / name)
    (tmp_path / "notes.txt").write_text("none of ours")
    (tmp_path / ".hidden.npy").write_bytes(b"")
    return tmp_path


def test_a_folder_gives_its_known_files_in_order(scans):
    items = read_manifest(str(scans), ".tiff")
    assert [i.source.name for i in items] == ["a.npy", "b.npy", "c.nii.gz"]
    assert [str(i.output) for i in items] == ["a.tiff", "b.tiff", "c.tiff"]


def test_a_pattern_gives_what_it_matches(scans):
    assert [i.source.name for i in read_manifest(str(scans / "*.npy"), ".npy")] == ["a.npy", "b.npy"]
    with pytest.raises(InputError, match="names no input"):
        read_manifest(str(scans / "*.h5"), ".npy")


@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl"])
def test_tables_of_each_form_say_the_same(scans, form):
    rows = [
        {"input": "a.npy", "output": "one/first.npy", "truth": "b.npy", "seed": 7},
        {"input": "b.npy", "axes": "yx"},
    ]
    path = scans / f"list.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(r) + "\n\n" for r in rows))
    else:
        sign = "\t" if form == "tsv" else ","
        columns = ("input", "output", "truth", "axes", "seed")
        lines = [columns, *([str(r.get(c, "")) for c in columns] for r in rows)]
        path.write_text("\ufeff" + "\n".join(sign.join(line) for line in lines) + "\n", encoding="utf-8")
    assert read_manifest(str(path), ".npy") == [
        BatchItem(scans / "a.npy", Path("one/first.npy"), truth=scans / "b.npy", seed=7),
        BatchItem(scans / "b.npy", Path("b.npy"), axes="yx"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input,trth\na.npy,b.npy\n", "unknown column 'trth'; did you mean 'truth'?"),
        ("input,output\na.npy\n", "line 2 .* another number of columns"),
        ("output\nx.npy\n", "line 2 .* names no input"),
        ("input\nnone.npy\nother.npy\n", "none.npy, which is not there, and 1 more"),
        ("input,output\na.npy,../x.npy\n", "line 2 .* outside"),
        ("input,output\na.npy,/x.npy\n", "line 2 .* outside"),
        ("input,seed\na.npy,-1\n", "line 2 .* seed is a whole number from 0, got '-1'"),
        ('{"input": "a.npy", }\n', "line 1 .* no JSON"),
        ('{"input": 3}\n', "line 1 .* 'input' is no text"),
        ("input\n", "names no input"),
        ("", "names no input"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_told(scans, text, message):
    (scans / "m.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_manifest(str(scans / "m.csv"), ".npy")


def test_a_manifest_that_is_no_text_or_not_there_is_refused(scans):
    (scans / "m.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="no text"):
        read_manifest(str(scans / "m.csv"), ".npy")
    with pytest.raises(InputError, match="no manifest"):
        read_manifest(str(scans / "none.csv"), ".npy")


def test_items_that_would_overwrite_each_other_are_refused(scans):
    (scans / "m.csv").write_text("input,output\na.npy,x.npy\nb.npy,x_std.npy\n")
    with pytest.raises(ConfigError, match=r"would both write x_std\.npy"):
        read_manifest(str(scans / "m.csv"), ".npy")


@given(st.integers(1, 40), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_parts_cover_every_item_once_and_are_alike(count, parts):
    items = [BatchItem(Path(str(i)), Path(str(i))) for i in range(count)]
    taken = [part_of(items, f"{k}/{parts}") for k in range(1, parts + 1)]
    assert sorted(str(i.source) for part in taken for i in part) == sorted(str(i) for i in range(count))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_what_is_no_part_is_refused(part):
    with pytest.raises(UsageError, match="k/n"):
        part_of([], part)
