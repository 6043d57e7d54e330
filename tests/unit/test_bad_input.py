"""Malformed input of every kind: exit code 2 and one line with place and remedy.

Nothing is printed to stdout and nothing is written.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_cases import CASES
from bad_commands import Case

from deployments.cli import main


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for Ray's sockets."""
    path = Path(tempfile.mkdtemp(prefix="e-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def own_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A home that does not exist and an empty working directory; restores the environment."""
    before = dict(os.environ)
    monkeypatch.setattr(tempfile, "tempdir", tempfile.gettempdir())
    (folder / "cwd").mkdir()
    monkeypatch.chdir(folder / "cwd")
    os.environ["ERPD_HOME"] = str(folder / "home")
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ |= {name: value for name, value in before.items() if name != "PYTEST_CURRENT_TEST"}


def listing(folder: Path) -> dict[str, object]:
    """All paths below the folder: the bytes of files, the mode of anything else."""
    content: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content[str(path)] = path.read_bytes() if stat.S_ISREG(mode) else mode
    return content


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_line_says_where_and_how_to_mend(
    case: Case, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    arguments = case.make(folder / "d")
    before = listing(folder)
    monkeypatch.setattr(sys, "argv", ["erpd", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    output = capfd.readouterr()
    assert (ended.value.code, output.out) == (2, ""), output
    lines = output.err.splitlines()
    assert (
        len(lines) == 1
        and lines[0].startswith("erpd: ")
        and lines[0].isprintable()
        and len(lines[0]) < 2100
    ), output.err[:3000]
    for words in case.says:
        assert words.replace("{d}", str(folder / "d")) in lines[0]
    assert listing(folder) == before


def test_the_table_is_large_and_names_each_case_once():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 200
