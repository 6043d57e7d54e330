"""`erpd grade-code` as users call it, and code problems in rollouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers import World, erpd

from erpd_core.config import FileProblems, SamplingConfig
from tasks.datasets import draw_problems
from tasks.execution.stage import get_or_compute
from tasks.rollouts import SCHEMA, SampleRollouts, shards

TESTS = {"inputs": ["1\n", "2\n"], "outputs": ["2\n", "3\n"]}
RIGHT = "print(int(input()) + 1)"


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    )
    return path


def test_rows_keep_order_and_keys_and_get_outcomes(tmp_path: Path) -> None:
    functional = {"inputs": ["[1, 2]"], "outputs": ["3"], "fn_name": "total"}
    rows = [
        {"code": RIGHT, "unit_tests": TESTS, "id": 7, "note": {"é": [1]}},
        {"code": "print(2)", "unit_tests": json.dumps(TESTS)},
        {"code": "print(", "unit_tests": TESTS, "verdict": "stale"},
        {
            "code": "class Solution:\n    def total(self, xs: List[int]) -> int:\n        return "
            "sum(xs)",
            "unit_tests": functional,
        },
    ]
    source, target = lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    done = erpd("grade-code", source, target, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and "correct 2" in done.stderr
    graded = [json.loads(line) for line in target.read_text().splitlines()]
    added = {"verdict", "passed", "total", "isolation"}
    assert [{key: row[key] for key in row.keys() - added} for row in graded] == [
        {key: row[key] for key in row.keys() - added} for row in rows
    ]
    assert [(row["verdict"], row["passed"], row["total"]) for row in graded] == [
        ("correct", 2, 2),
        ("wrong", 1, 2),
        ("error", 0, 2),
        ("correct", 1, 1),
    ]
    assert {row["isolation"].split(" without ")[0] for row in graded} <= {
        "bubblewrap",
        "namespaces",
        "limits",
    }
    again = erpd("grade-code", target, target, home=tmp_path)
    assert (
        again.returncode == 0
        and [json.loads(line) for line in target.read_text().splitlines()] == graded
    )
    assert {path.name for path in tmp_path.rglob("*")} == {"in.jsonl", "out.jsonl", "tmp"}, (
        "nothing is left in the home"
    )


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("{", "not JSON"),
        ([1], "unit_tests"),
        ({"code": RIGHT}, "unit_tests"),
        ({"code": 1, "unit_tests": TESTS}, "code"),
        ({"code": RIGHT, "unit_tests": {"inputs": [], "outputs": []}}, "empty"),
        ({"code": RIGHT, "unit_tests": "{"}, "not JSON"),
    ],
    ids=["json", "list", "no tests", "code", "empty", "tests"],
)
def test_bad_rows_are_refused_in_one_line_before_anything_runs(
    tmp_path: Path, row: Any, word: str
) -> None:
    source = lines(tmp_path / "in.jsonl", [{"code": RIGHT, "unit_tests": TESTS}, row])
    done = erpd("grade-code", source, tmp_path / "out.jsonl", home=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.strip().splitlines()) == 1
    assert word in done.stderr and "line 2" in done.stderr
    assert not (tmp_path / "out.jsonl").exists(), "no partial result"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = erpd("grade-code", tmp_path / "nope.jsonl", tmp_path / "out.jsonl", home=tmp_path)
    assert done.returncode == 2 and "nope.jsonl" in done.stderr and "Traceback" not in done.stderr


def test_rollouts_on_code_problems_are_graded_as_code(world: World, tmp_path: Path) -> None:
    """The embedded model writes sums, not programs. A response without a program is unparsable, not
    an error.
    """
    rows = [{"problem": f"1{n}+2=", "answer": json.dumps(TESTS)} for n in range(2)]
    source = FileProblems(path=str(lines(tmp_path / "problems.jsonl", rows)), extractor="code")
    problems = get_or_compute(draw_problems("code", source, 1), world.context)
    sampling = SamplingConfig(samples=2, temperature=1.0, max_new_tokens=8, shard=2)
    rollouts = get_or_compute(
        SampleRollouts(policy=world.base, problems=problems, sampling=sampling, seed=1),
        world.context,
    )
    (table,) = [pq.read_table(path).to_pylist() for path in shards(world.store, rollouts)]
    assert [(row["verdict"], row["reward"]) for row in table] == [("unparsable", 0.0)] * 4
    assert set(table[0]) == set(SCHEMA.names) and "gold" not in table[0], (
        "unit tests stay with the problems"
    )
