"""Links, paths and commands that the documents name exist."""

from __future__ import annotations

import re
import types
from pathlib import Path

import pytest
import typer
from doc_names import PACKAGES, ROOT, commands, path_exists, prose, python_name_exists, spans

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PATH = re.compile(
    rf"(?:{'|'.join((*PACKAGES, 'tests', 'docs', 'scripts', 'benchmarks', 'docker'))})/[\w./*-]*"
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_resolve(document: Path) -> None:
    broken = []
    for target in LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert not broken, f"{document.name} has broken links: {broken}"


def anchors(path: Path) -> set[str]:
    """A document's anchors: those that GitHub derives from headings, and its explicit ones."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    named = set(re.findall(r'<a id="([^"]+)"></a>', path.read_text()))
    return named | {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_of_the_repository_in_code_spans_exist(document: Path) -> None:
    missing = [span for span in spans(document) if PATH.fullmatch(span) and not path_exists(span)]
    assert not missing, f"{document.name} names paths that do not exist: {missing}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_make_targets_exist(document: Path) -> None:
    from deployments.cli import app

    known = set(typer.main.get_command(app).commands)
    wrong = [
        words
        for words in commands(document, "erpd")
        if re.fullmatch(r"[a-z-]+", words[1]) and words[1] not in known
    ]
    assert not wrong, f"{document.name}: the command line has only {sorted(known)}"
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wrong = [words for words in commands(document, "make") if words[1] not in targets]
    assert not wrong, f"{document.name}: the Makefile has only {sorted(targets)}"


def test_readme_names_commands() -> None:
    assert {"run", "recipes", "show", "eval", "grade", "report", "doctor"} <= {
        words[1] for words in commands(DOCUMENTS[0], "erpd")
    }


def test_python_names_are_found_where_they_are() -> None:
    assert isinstance(python_name_exists, types.FunctionType)
    assert python_name_exists("erpd_core.losses.LossInputs.per_sequence")
    assert python_name_exists("flows.campaign.IterationResult.seconds")
    assert not python_name_exists("erpd_core.losses.LossInputs.nothing")
