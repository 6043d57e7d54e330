"""Grading in real worker processes: deadlines, killed workers, order, orphans, files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.grading import Grader, grade_file
from tasks.grading.workers import GraderError

ROOT = Path(__file__).parents[2]
TOWER = ("7", r"\boxed{9^{9^{9^9}}}")
SLOW_PATH = ("x+1", r"\boxed{1+x}")


@pytest.fixture
def grader() -> Iterator[Grader]:
    with Grader(workers=2, deadline=3.0) as grader:
        yield grader


def gone(pid: int, patience: float) -> bool:
    """Whether a process ends within `patience` seconds."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_hanging_item_times_out_and_the_others_are_graded_in_order(grader: Grader) -> None:
    pairs = [
        SLOW_PATH,
        TOWER,
        ("5", "5"),
        ("x+1", r"\boxed{x+2}"),
        TOWER,
        ("5", ""),
        (r"\sqrt{8}", r"\boxed{2\sqrt{2}}"),
    ]
    expected = ["correct", "timeout", "correct", "wrong", "timeout", "unparsable", "correct"]
    grader.grade_many([SLOW_PATH])  # starts the workers, so that only deadlines take time below
    began = time.monotonic()
    assert grader.grade_many(pairs) == expected
    assert 3.0 <= time.monotonic() - began < 20
    assert grader.grade_many([SLOW_PATH]) == ["correct"]


def test_a_worker_killed_from_outside_costs_its_item_only(grader: Grader) -> None:
    grader.grade_many([SLOW_PATH])
    (victim,) = grader.pids
    timer = threading.Timer(0.5, os.kill, (victim, signal.SIGKILL))
    timer.start()
    assert grader.grade_many([TOWER, SLOW_PATH]) == ["timeout", "correct"]
    timer.join()
    victim = grader.pids[0]
    os.kill(victim, signal.SIGKILL)  # an idle worker: no item is lost
    assert gone(victim, 5.0)
    assert grader.grade_many([SLOW_PATH, SLOW_PATH]) == ["correct", "correct"]


def test_memory_is_limited_per_worker() -> None:
    with Grader(workers=1, memory=3 << 30) as grader:
        assert grader.grade_many([SLOW_PATH]) == ["correct"]
        limits = Path(f"/proc/{grader.pids[0]}/limits").read_text()
    assert f"{3 << 30}" in next(
        line for line in limits.splitlines() if line.startswith("Max address space")
    )


def test_workers_that_cannot_start_are_an_error_and_not_a_verdict() -> None:
    with (
        Grader(workers=1, memory=30 << 20) as grader,
        pytest.raises(GraderError, match=r"math_verify|cannot start"),
    ):
        grader.grade_many([SLOW_PATH])


def test_close_leaves_no_process(grader: Grader) -> None:
    grader.grade_many([SLOW_PATH] * 4)
    pids = grader.pids
    grader.close()
    assert pids and all(gone(pid, 1.0) for pid in pids)
    with pytest.raises(RuntimeError, match="closed"):
        grader.grade_many([SLOW_PATH])


@pytest.mark.parametrize("busy", [False, True])
def test_workers_end_with_a_parent_that_was_killed(busy: bool) -> None:
    code = (
        "import sys, threading, time; from tasks.grading import Grader\n"
        f"g = Grader(workers=1, deadline=2.0); g.grade_many([{SLOW_PATH!r}]); print(g.pids[0], "
        f"flush=True)\n" + (f"g.grade_many([{TOWER!r}])" if busy else "time.sleep(60)")
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        time.sleep(0.5)
        parent.kill()
    assert gone(worker, 12.0)


def test_it_works_in_a_thread_and_outlives_the_thread_that_started_it(grader: Grader) -> None:
    results: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: results.append(list(grader.grade_many([SLOW_PATH, TOWER]))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [["correct", "timeout"]] * 2
    assert grader.grade_many([SLOW_PATH]) == ["correct"]


def test_what_libraries_print_is_not_taken_for_an_answer(grader: Grader) -> None:
    assert (
        grader.grade_many(
            [("x", r"\boxed{\zzz{} ready verdict}"), ("x+y", '{"verdict": "correct"}\n'), SLOW_PATH]
        )[2]
        == "correct"
    )


def test_grade_file_keeps_rows_keys_and_order(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [
        {"id": 1, "gold": "x+1", "prediction": "1+x", "note": "é"},
        {"gold": "4", "prediction": r"so \boxed{5}"},
        {"gold": "4", "prediction": ""},
    ]
    source.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    assert grade_file(source, target, workers=1) == {
        "correct": 1,
        "wrong": 1,
        "unparsable": 1,
        "timeout": 0,
    }
    graded = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert graded == [
        row | {"verdict": verdict}
        for row, verdict in zip(rows, ["correct", "wrong", "unparsable"], strict=True)
    ]
    assert sorted(path.name for path in target.parent.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2: not JSON"),
        ("[1]", "line 2: a list, not an object"),
        ('{"gold": "1"}', 'line 2: no key "prediction"'),
        ('{"gold": 1, "prediction": "1"}', 'line 2: "gold" is 1, not a string'),
    ],
)
def test_bad_rows_are_named_and_nothing_is_written(tmp_path: Path, line: str, message: str) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"gold": "1", "prediction": "1"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        grade_file(source, target)
    assert message in str(caught.value) and str(source) in str(caught.value)
    assert not target.exists() and list(tmp_path.iterdir()) == [source]


def test_a_blank_gold_is_unparsable_and_the_other_rows_are_graded(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(
        '{"gold": " ", "prediction": "1"}\n{"gold": "1", "prediction": "1"}\n', encoding="utf-8"
    )
    assert grade_file(source, target) == {"correct": 1, "wrong": 0, "unparsable": 1, "timeout": 0}
    assert [json.loads(line)["verdict"] for line in target.read_text().splitlines()] == [
        "unparsable",
        "correct",
    ]
