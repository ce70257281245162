"""Every sampler is one short file that opens with its update and says what it was made from."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from recon.runs.methods import SAMPLERS, method_class

MOST = 150


def source(name: str) -> str:
    module = importlib.import_module(SAMPLERS[name][0])
    assert module.__file__ is not None
    return Path(module.__file__).read_text()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_one_short_file(name):
    assert len(source(name).splitlines()) <= MOST


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_opens_with_its_update_and_its_sources(name):
    text = ast.get_docstring(ast.parse(source(name))) or ""
    title, _, rest = text.partition("\n\n")
    assert "\n" not in title and ":" in title
    update = rest.split("\n\n")[0] if rest.startswith("    ") else ""
    assert re.search(r"=|~|<-", update), "the first paragraph is the update, indented"
    assert re.search(r"^Sources?: .*\b(19|20)\d\d\b", text, re.MULTILINE)
    assert "eparture" in text


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_setting_is_explained(name):
    cls = method_class(name)
    assert is_dataclass(cls) and cls.__dataclass_params__.frozen
    bases = [base for base in cls.__mro__ if base.__module__.startswith("recon.samplers")]
    text = "\n".join(filter(None, (inspect.getdoc(base) for base in bases))) + source(name).split('"""')[1]
    missing = [field.name for field in fields(cls) if not re.search(rf"\b{field.name}\b", text)]
    assert not missing


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_is_cited_and_says_what_it_needs(name):
    cls = method_class(name)
    assert cls.citation.startswith("@") and "year={" in cls.citation
    assert "needs" in vars(cls) and cls.needs, "also of another method's class, its needs are its own"
