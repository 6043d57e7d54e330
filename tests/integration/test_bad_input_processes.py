"""Some malformed inputs, each given to the real command in a separate process."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_cases import CASES
from helpers import erpd

pytestmark = pytest.mark.slow
SOME = (
    "unknown command",
    "recipe key twice",
    "set nan",
    "recipe pipe",
    "problems not UTF-8",
    "grade into no folder",
    "grade-code broken line",
    "model weights cut",
    "lineage unknown",
)


@pytest.mark.parametrize("name", SOME)
def test_a_process_says_one_line_and_writes_nothing(name: str, tmp_path: Path):
    (case,) = [case for case in CASES if case.name == name]
    cwd, home = tmp_path / "cwd", tmp_path / "home"
    cwd.mkdir()
    arguments = case.make(tmp_path / "d")
    before = sorted(tmp_path.rglob("*"))
    done = erpd(*arguments, home=home, cwd=cwd, timeout=120)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert all(words in done.stderr for words in case.says)
    assert sorted(tmp_path.rglob("*")) == before
