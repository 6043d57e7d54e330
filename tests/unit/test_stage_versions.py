"""A stage whose code changed needs a new VERSION or an acknowledgment."""

import copy
import json
from pathlib import Path

import pytest

from scripts.stage_versions import GOLDEN, complaints, stage_code, tree_hash

ROOT = Path(__file__).parents[2]
SOURCE = '''
"""A module."""
import math

LIMIT = 3


def area(radius: float) -> float:
    """Of a circle."""
    squared = radius**2  # r^2
    if radius > LIMIT:
        raise ValueError(f"{radius}: too large")
    return math.pi * squared
'''


@pytest.fixture(scope="module")
def now() -> dict:
    return stage_code()


def test_every_change_is_acknowledged(now: dict):
    golden = json.loads((ROOT / GOLDEN).read_text())
    assert complaints(golden, now) == [], "see python -m scripts.stage_versions"


def test_the_golden_file_knows_the_code_of_every_stage(now: dict):
    assert {"SampleRollouts", "ScoreRollouts", "TrainTeacher", "DistillStudent"} <= now.keys()
    teacher = now["TrainTeacher"]["modules"]
    assert {"erpd_core.optimize", "erpd_core.losses.sapo", "erpd_core.advantages"} <= teacher.keys()
    sampling = now["SampleRollouts"]["modules"]
    assert {"tasks.grading.worker_main", "tasks.grading.code.runner"} <= sampling.keys()
    assert "erpd_core.losses.sapo" not in sampling
    assert not any(module.startswith("tasks.store") for module in teacher)


def test_a_forgotten_bump_is_named(now: dict):
    golden = copy.deepcopy(now)
    golden["ScoreRollouts"]["modules"]["erpd_core.logprobs"] = "0" * 16
    (line,) = complaints(golden, now)
    assert line.startswith("ScoreRollouts: changed are erpd_core.logprobs, and VERSION is still")
    golden["ScoreRollouts"]["version"] -= 1
    (line,) = complaints(golden, now)
    assert line.startswith("ScoreRollouts: VERSION") and line.endswith("acknowledge")
    del golden["ScoreRollouts"]
    assert complaints(golden, now) == ["ScoreRollouts: a new stage; acknowledge"]


@pytest.mark.parametrize(
    "change",
    [
        ('"""Of a circle."""', '"""The area of a circle."""'),
        ("# r^2", ""),
        ("squared", "square"),
        ("import math", "import math\nimport os"),
        ("radius: float) -> float", "radius)"),
        ("too large", "is beyond the limit"),
    ],
)
def test_words_and_local_names_do_not_count(change: tuple[str, str]):
    assert tree_hash(SOURCE.replace(*change)) == tree_hash(SOURCE)


@pytest.mark.parametrize(
    "change",
    [
        ("**2", "**3"),
        ("LIMIT = 3", "LIMIT = 4"),
        ("radius > LIMIT", "radius >= LIMIT"),
        ("ValueError", "ArithmeticError"),
        ("math.pi * squared", "squared * math.pi"),
    ],
)
def test_what_may_change_values_counts(change: tuple[str, str]):
    assert tree_hash(SOURCE.replace(*change)) != tree_hash(SOURCE)
