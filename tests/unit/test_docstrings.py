"""Docstrings are written in one form (CONTRIBUTING, Docstrings)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_names import PACKAGES, ROOT

SECTION = re.compile(r"^\*\*(Arguments|Returns|Yields|Raises):\*\*")
OTHER = re.compile(r"^\s*(Args|Arguments|Parameters|Returns|Yields|Raises|Example):(?!\*)", re.M)
FORMS = {"flows/next_iteration.py"}
"""Its docstring is parsed by Prefect, whose forms show the text of `Args:`."""


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if text := ast.get_docstring(node):
            yield getattr(node, "lineno", 1), text


def faults(text: str) -> Iterator[str]:
    lines = text.splitlines()
    if re.match(r"Raises |\*\*", lines[0]):
        yield "the first line says what it is or does"
    if OTHER.search(text):
        yield "a section is written **Name:**"
    section = False
    for line in lines:
        if SECTION.match(line):
            section = True
        elif not line.strip() or line.startswith("**"):
            section = False
        elif section and not line.startswith("    "):
            yield f"a section's further lines are indented: {line!r}"


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_have_one_form(package: str):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {fault}"
        for path in sorted((ROOT / package).rglob("*.py"))
        if str(path.relative_to(ROOT)) not in FORMS
        for line, text in docstrings(path)
        for fault in faults(text)
    ]
    assert found == [], "\n".join(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_in_its_first_line_what_it_is_for(package: str):
    for path in sorted((ROOT / package).rglob("__init__.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert text and text.splitlines()[0].endswith("."), path.relative_to(ROOT)


@pytest.mark.parametrize(
    "text",
    [
        "Raises ValueError if it is empty.",
        "A thing.\n\nReturns: Another.",
        "A thing.\n\n**Raises:** ValueError if it\nis empty.",
    ],
)
def test_another_form_is_noticed(text: str):
    assert len(list(faults(text))) == 1
