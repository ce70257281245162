"""What a batch works on: a table of inputs, a folder, or a pattern."""

from __future__ import annotations

import csv
import difflib
import glob
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recon.errors import ConfigError, InputError, UsageError
from recon.io.catalog import format_of_name
from recon.runs.outputs import output_names, split_extension

COLUMNS = ("input", "output", "truth", "operator", "axes", "seed")


@dataclass(frozen=True)
class BatchItem:
    """One reconstruction: its files, and what is its own. `output` is relative to the batch's folder."""

    source: Path
    output: Path
    truth: Path | None = None
    operator: Path | None = None
    axes: str | None = None
    seed: int | None = None


def read_manifest(source: str, extension: str) -> list[BatchItem]:
    """Return the items of a manifest.

    source: a TSV, CSV or JSON Lines file with a column `input` and any of `output`, `truth`, `operator`, `axes`,
        `seed`, whose paths start from its folder; a folder, every file of a known format in it; or a pattern such as
        "scans/*.h5".
    extension: of outputs that are not named: INPUT's name with this extension.
    Raises InputError for a manifest that cannot be read or names nothing, or an input that is not there; ConfigError
    where two items would write the same file.
    """
    path = Path(source)
    if path.is_dir() and format_of_name(source) is None:
        known = [p for p in sorted(path.iterdir()) if not p.name.startswith(".") and _is_input(p)]
        items = [BatchItem(p, _named(p, extension)) for p in known]
    elif path.is_file():
        items = [_item(row, number, path.parent, extension) for number, row in _rows(path)]
    elif glob.has_magic(source):
        items = [BatchItem(Path(p), _named(Path(p), extension)) for p in sorted(glob.glob(source, recursive=True))]
    else:
        raise InputError(f"no manifest {source}", "give a TSV, CSV or JSON Lines file, a folder, or a quoted pattern")
    if not items:
        raise InputError(f"{source} names no input")
    _check(items)
    return items


def part_of(items: list[BatchItem], part: str | None) -> list[BatchItem]:
    """Return the items of part "k/n", k = 1..n: every n-th, so that parts are alike.

    Raises UsageError for another text.
    """
    if part is None:
        return items
    head, _, tail = part.partition("/")
    if not (head.isdecimal() and tail.isdecimal() and 1 <= int(head) <= int(tail)):
        raise UsageError(f"a part is k/n with k from 1 to n, got '{part}'", "such as --part 2/8")
    return items[int(head) - 1 :: int(tail)]


def _is_input(path: Path) -> bool:
    form = format_of_name(path.name)
    return form is not None and "measurement" in form.reads


def _named(source: Path, extension: str) -> Path:
    return Path(split_extension(source)[0] + extension)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each line with an item, and its fields."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"cannot read the manifest {path.name}: {_reason(err)}") from err
    if text.lstrip().startswith("{"):
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield number, _object(line, number)
        return
    header = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in header else ",")
    for row in reader:
        if None in row or None in row.values():
            raise InputError(f"line {reader.line_num} of the manifest has another number of columns than its header")
        yield reader.line_num, {key.strip(): value.strip() for key, value in row.items() if value.strip()}


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as err:
        raise InputError(f"line {number} of the manifest is no JSON: {err.msg}") from err
    if not isinstance(found, dict):
        raise InputError(f"line {number} of the manifest is no JSON object")
    return {key: value for key, value in found.items() if value is not None}


def _item(row: dict[str, Any], number: int, folder: Path, extension: str) -> BatchItem:
    for name in row:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, 1)
            raise InputError(
                f"the manifest has an unknown column '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""),
                f"columns: {', '.join(COLUMNS)}",
            )
    if "input" not in row:
        raise InputError(f"line {number} of the manifest names no input", f"columns: {', '.join(COLUMNS)}")
    wrong = [name for name in COLUMNS[:-1] if not isinstance(row.get(name, ""), str)]
    if wrong:
        raise InputError(f"line {number} of the manifest: '{wrong[0]}' is no text")
    paths = {name: folder / row[name] for name in ("input", "truth", "operator") if name in row}
    output = Path(row["output"]) if "output" in row else _named(paths["input"], extension)
    if output.is_absolute() or ".." in output.parts:
        raise InputError(f"line {number} of the manifest: the output {output} is outside of the batch's folder")
    return BatchItem(
        paths["input"], output, paths.get("truth"), paths.get("operator"), row.get("axes"), _seed(row, number)
    )


def _seed(row: dict[str, Any], number: int) -> int | None:
    text = str(row.get("seed", ""))
    if text and not text.isdecimal():
        raise InputError(f"line {number} of the manifest: a seed is a whole number from 0, got '{text}'")
    return int(text) if text else None


def _check(items: list[BatchItem]) -> None:
    """Refuse inputs that are not there, and outputs that would overwrite each other."""
    missing = [p for i in items for p in (i.source, i.truth, i.operator) if p is not None and not _exists(p)]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"the manifest names {missing[0]}, which is not there{more}")
    taken: dict[Path, BatchItem] = {}
    for item in items:
        # as if there were several samples, whose files have names of their own
        for path in output_names(item.output, 2).all():
            if path in taken:
                raise ConfigError(
                    f"{taken[path].source} and {item.source} would both write {path}", "name outputs in the manifest"
                )
            taken[path] = item


def _exists(path: Path) -> bool:
    """Tell whether a path exists, or the file of FILE::INNER."""
    return path.exists() or Path(str(path).partition("::")[0]).exists()


def _reason(err: Exception) -> str:
    return "it is no text" if isinstance(err, UnicodeDecodeError) else str(getattr(err, "strerror", err))
