"""The English of code and documents: CONTRIBUTING's glossary of what is not written."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_names import ROOT, prose

CODE = ("erpd_core", "tasks", "flows", "deployments", "scripts", "benchmarks", "docker", "tests")
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TICS = {
    r"worked out|works? out\b": "computed",
    r"\b(goes|went|gone) on\b|\bgo on (with|from)\b": "resumes, continues",
    r"\banew\b": "again",
    r"\bfor ever\b": "indefinitely",
    r"\bof equals\b": "ties go to",
    r"\bso many\b": "N, or the number",
    r"\b(comes|came) to (no|be|the|a|an|nothing)\b": "equals, results in",
    r"\b(is|are|was|were|be|being) told\b|\btells\b": "reported, says",
    r"\bmend(s|ed|ing)?\b": "fix, remedy",
    r"\b(lies|stands) (in|beside|behind|under|there|with|alone)\b": "is",
    r"\bstands for\b": "means",
    r"\bsomething to teach\b|\btelling\b": "carries a learning signal",
    r"\bhalves of characters\b": "lone surrogates",
    r"\bturn text around\b": "bidirectional overrides",
    r"\ba person\b": "a user",
}


def words_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every comment and docstring of a Python file."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        text = node.value if isinstance(node, ast.Expr) else None
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            yield node.lineno, text.value


def tics(text: str) -> list[str]:
    """What of the glossary's left column is in a text."""
    flat = " ".join(text.split())
    return [
        f"{match[0]!r} -> {better}"
        for tic, better in TICS.items()
        for match in re.finditer(tic, flat)
    ]


@pytest.mark.parametrize("folder", CODE)
def test_comments_and_docstrings_use_plain_terms(folder: str):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {tic}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name != Path(__file__).name
        for line, text in words_of(path)
        for tic in tics(text)
    ]
    assert found == [], "\n".join(found)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_use_plain_terms(document: Path):
    text = prose(document)
    if document.name == "CONTRIBUTING.md":  # the glossary itself
        text = re.sub(r"(?ms)^\| not \|.*?\n\n", "\n\n", text)
    assert tics(text) == []


def test_the_glossary_is_in_contributing():
    assert "| worked out | computed |" in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize(
    "text", ["It goes on\nwith the next.", "of equals the earliest", "A person\nis told of it."]
)
def test_a_tic_is_found_over_a_line_break(text: str):
    assert tics(text.lower())
