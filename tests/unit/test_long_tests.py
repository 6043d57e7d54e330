"""`make test` leaves out long tests, but not those of a package that changed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers import ROOT
from long_tests import COVERS, asked_for, changed_since


def files_with_long_tests() -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-m", "long", "-qq", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.partition(":")[0] for line in done.stdout.splitlines() if line.startswith("tests")}


@pytest.mark.slow
def test_every_file_with_long_tests_says_which_changes_ask_for_them():
    assert files_with_long_tests() == set(COVERS)


def test_every_path_is_there():
    missing = [path for paths in COVERS.values() for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_a_change_asks_for_the_long_tests_of_its_package_and_no_others():
    file = "tests/integration/test_samplers.py"
    assert asked_for(file, ["docs/a.md", "tasks/rollouts/sample.py"])
    assert asked_for(file, [file]), "a test that changed runs"
    assert not asked_for(file, ["tasks/rollouts_of_others.py", "tasks/store/store.py"])


def test_an_unknown_commit_is_refused():
    with pytest.raises(pytest.UsageError, match="no-such-commit"):
        changed_since("no-such-commit")
