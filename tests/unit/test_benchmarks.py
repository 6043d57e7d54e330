"""Benchmarks print each pair at once, end with their minutes, and say what their result is of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from helpers import ROOT, wait_until

from benchmarks._batches import BATCHES, doubled
from benchmarks._budget import Deadline, TimeUp, in_shares
from benchmarks._pairs import Figure, Pair, Result, compared, in_turn, repeated
from benchmarks._sides import both, output, side
from erpd_core.config import EmbeddedModel

NAMES = sorted(
    path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_")
)


def taking(seconds: float) -> Callable[[int, int], tuple[Result, Result]]:
    """A pair that takes this long for each unit of its size."""

    def pair(number: int, size: int) -> tuple[Result, Result]:
        time.sleep(seconds * size)
        return {"rate": 2.0 + number}, {"rate": 1.0}

    return pair


def sizes_of(pairs: list[Pair]) -> list[int]:
    return [pair.size for pair in pairs]


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"benchmarks.{arguments[0]}", *arguments[1:]]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


# ---------------------------------------------------------------------------------- the time it has


def test_comparisons_share_the_time_and_what_one_leaves_is_the_others():
    def measure(name: str, share: Deadline) -> float:
        if name == "b":
            raise TimeUp
        return share.left

    shares = in_shares(["a", "b", "c", "d"], measure, Deadline(60))
    assert shares == {
        "a": pytest.approx(15, abs=1),
        "c": pytest.approx(30, abs=1),
        "d": pytest.approx(60, abs=1),
    }


def test_after_the_time_nothing_is_begun():
    assert in_shares(["a", "b"], lambda name, _: name, Deadline(0)) == {}
    with pytest.raises(TimeUp):
        repeated("x", taking(0), Deadline(0), rounds=3)


def test_the_deadline_ends_the_pairs_and_what_was_measured_stays():
    began = time.monotonic()
    pairs = repeated("x", taking(0.05), Deadline(0.5), rounds=1000)
    assert time.monotonic() - began < 1 and 2 <= len(pairs) <= 10
    row = compared(pairs)
    assert row["pairs"] == len(pairs) - 1 and row["preliminary"] is False
    assert row["ratio_range"] == [3.0, 2.0 + len(pairs) - 1]


def test_rounds_are_the_most_pairs_after_the_warm_up():
    assert len(repeated("x", taking(0), Deadline(60), rounds=3)) == 4


def test_work_begins_small_and_has_then_the_largest_size_that_fits():
    assert sizes_of(repeated("x", taking(0.01), Deadline(60), 2, (1, 2, 4))) == [1, 4, 4]
    assert sizes_of(repeated("x", taking(0.01), Deadline(60), 2, (1, 2, 10_000))) == [1, 2, 2]
    assert sizes_of(repeated("x", taking(0.01), Deadline(60), 2, (1, 10_000))) == [1, 1, 1]


def test_two_pairs_may_take_the_time_of_other_comparisons_and_no_more():
    whole = Deadline(60)
    assert len(repeated("x", taking(0.05), whole.share(10_000), rounds=5)) == 2


def test_a_warm_up_alone_is_a_preliminary_result():
    def pair(number: int, size: int) -> tuple[Result, Result]:
        if number:
            raise TimeUp
        return {"rate": 3.0}, {"rate": 2.0}

    row = compared(repeated("x", pair, Deadline(60), rounds=5))
    assert row == {
        "ours": 3.0,
        "peer": 2.0,
        "ratio": 1.5,
        "ratio_range": [1.5, 1.5],
        "pairs": 1,
        "preliminary": True,
    }


def test_results_are_medians_over_the_pairs_after_the_warm_up():
    values = [(9.0, 1.0), (1.0, 2.0), (2.0, 8.0), (4.0, 4.0)]
    pairs = [Pair(1, {"GB": ours}, {"GB": peer}) for ours, peer in values]
    row = compared(pairs, Figure("GB", less_is_better=True))
    assert (row["ours"], row["peer"], row["ratio"]) == (2.0, 4.0, 2.0)
    assert (row["ratio_range"], row["pairs"]) == ([1.0, 4.0], 3)


def test_sides_take_turns_in_going_first():
    order: list[str] = []

    def named(name: str) -> Callable[[int], Result]:
        return lambda size: order.append(name) or {"rate": 1.0}  # type: ignore[func-returns-value]

    repeated("x", in_turn(named("ours"), named("peer")), Deadline(60), rounds=2)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]


def test_each_pair_is_printed_before_the_next_begins():
    """Through a pipe, where Python keeps lines back unless they are flushed."""
    code = """
import sys
from benchmarks._budget import Deadline
from benchmarks._pairs import repeated

def pair(number, size):
    number and sys.stdin.readline()
    return {"rate": 3.0 + number}, {"rate": 2.0}

repeated("step", pair, Deadline(600), rounds=2)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        lines = [process.stdout.readline()]
        for _ in range(2):
            process.stdin.write("\n")
            process.stdin.flush()
            lines.append(process.stdout.readline())
    assert [line.strip() for line in lines] == [
        "step, warm-up: ours 3.00, peer 2.00, ratio 1.500 (size 1)",
        "step, pair 1: ours 4.00, peer 2.00, ratio 2.000 (size 1)",
        "step, pair 2: ours 5.00, peer 2.00, ratio 2.500 (size 1)",
    ]


# ------------------------------------------------------------------------------------ its processes


@pytest.mark.slow
def test_a_pair_under_way_at_the_deadline_is_dropped_and_its_processes_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    files = [str(tmp_path / name) for name in ("ours", "peer")]
    deadline = Deadline(10)
    with both("tests.sleeping_side", files[:1], files[1:], deadline) as (ours, peer):

        def pair(number: int, size: int) -> tuple[Result, Result]:
            return ours(0), peer(600 if number else 0)

        pairs = repeated("x", pair, deadline, rounds=5)
    assert len(pairs) == 1 and compared(pairs)["preliminary"]
    process, child = map(int, Path(files[1]).read_text().split())
    assert not psutil.pid_exists(process) and not psutil.pid_exists(child)


def test_a_side_that_is_not_ready_in_time_is_killed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    before = psutil.Process().children()
    with (
        pytest.raises(TimeUp),
        both("tests.sleeping_side", ["/dev/null"], ["/dev/null"], Deadline(0.01)),
    ):
        pass
    assert psutil.Process().children() == before


def test_a_side_that_fails_is_an_error_and_not_the_end_of_the_time():
    with (
        side("no.such.module", deadline=Deadline(60)) as broken,
        pytest.raises(RuntimeError, match=r"-m no\.such\.module ended; run it by hand"),
    ):
        broken.answer()


def test_a_command_ends_with_the_deadline_or_says_that_it_failed():
    assert output(["-c", "print(7)"], Deadline(60)) == "7\n"
    with pytest.raises(subprocess.CalledProcessError):
        output(["-c", "raise SystemExit(3)"], Deadline(60))
    with pytest.raises(TimeUp):
        output(["-c", "import time; time.sleep(600)"], Deadline(0.2))


def test_a_benchmark_that_is_killed_leaves_no_process(tmp_path: Path):
    code = f"""
from benchmarks._budget import Deadline
from benchmarks._sides import side
with side("tests.sleeping_side", {str(tmp_path / "pids")!r}, deadline=Deadline(600)) as one:
    one.answer()
    one(600)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment) as process:
        assert wait_until(lambda: (tmp_path / "pids").exists(), 60)
        time.sleep(0.5)
        process.kill()
    pid = int((tmp_path / "pids").read_text().split()[0])
    assert wait_until(lambda: not psutil.pid_exists(pid), 20)


# ---------------------------------------------------------------------------------------- its work


@pytest.mark.parametrize("name", BATCHES)
def test_a_part_of_a_batch_has_its_first_responses_and_the_longest(name: str):
    shape = BATCHES[name]
    whole = shape.batch(100, len(shape.prompts))
    for groups in shape.sizes:
        part = shape.batch(100, groups)
        assert part.sequences == groups * shape.samples and len(part.prompts) == groups
        assert part.length_S.tolist() == whole.length_S[: part.sequences].tolist()
        assert int(part.length_S.max()) == shape.longest


def test_sizes_double_up_to_the_largest():
    assert [doubled(1, 1), doubled(1, 3), doubled(4, 64)] == [(1,), (1, 2, 3), (4, 8, 16, 32, 64)]


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 2])
def test_both_sides_do_the_same_work_on_a_part_of_a_batch(groups: int):
    """On the embedded model: TRL's step has the same loss, and its log-probs are the same.

    Log-probs come first, because a side may be asked for both in any order.
    """
    pytest.importorskip("trl", reason="compares with TRL: pip install -e '.[bench]'")
    from benchmarks import _ours, _work

    folder = _ours.policy_folder(EmbeddedModel())
    with ExitStack() as stack:
        sides = [_work.ours(folder, "sapo"), _work.peer(stack, folder, "sapo")]
        batch = BATCHES["short"].batch(sides[0].vocabulary, groups)
        mine, theirs = (works.score(batch, 700)()["logprobs"] for works in sides)
        assert len(mine) == batch.tokens and mine == pytest.approx(theirs, abs=1e-3)
        first, second = (works.step(batch, 700)()["loss"] for works in sides)
        assert first == pytest.approx(second, abs=1e-5) and abs(first) > 1e-3


# -------------------------------------------------------------------------------------- its command


def test_every_benchmark_has_the_minutes_and_none_takes_zero():
    code = f"""
import contextlib, importlib, io, sys

for name in {NAMES!r}:
    error = io.StringIO()
    sys.argv = [name, "--json", "--minutes", "0"]
    with contextlib.redirect_stderr(error):
        try:
            importlib.import_module("benchmarks." + name).main()
        except SystemExit as end:
            print(name, end.code, error.getvalue().splitlines()[-1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    expected = "error: argument --minutes: '0' is not a number of minutes above 0"
    assert done.stdout.splitlines() == [f"{name} 2 {name}: {expected}" for name in NAMES], (
        done.stderr
    )


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "soon"])
def test_minutes_are_a_number_above_zero(text: str):
    with pytest.raises(Exception, match="not a number of minutes above 0"):
        Deadline.in_minutes(text)
    assert Deadline.in_minutes("0.5").seconds == 30


@pytest.mark.slow
def test_the_last_line_is_the_contract_and_says_how_many_pairs_there_were():
    done = benchmark("head", "--json", "--minutes", "2", "--rounds", "3")
    *lines, last = done.stdout.splitlines()
    result = json.loads(last)
    assert list(result) == ["name", "ours", "peer", "ratio", "unit", "setup"]
    setup = result["setup"]
    assert (setup["minutes"], setup["pairs"], setup["preliminary"]) == (2, 3, False)
    assert setup["ratio_range"][0] <= result["ratio"] <= setup["ratio_range"][1]
    assert setup["left_out"] == [] and [row["pairs"] for row in setup["results"]] == [3, 3]
    assert [sum(f"rows, {kind}" in line for line in lines) for kind in ("warm-up", "pair")] == [
        2,
        6,
    ]


@pytest.mark.slow
def test_without_a_pair_it_fails_and_says_what_to_do():
    done = benchmark("head", "--json", "--minutes", "1e-9")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "head: no pair was measured in 1e-09 minutes; set a larger --minutes\n"


@pytest.mark.slow
def test_a_benchmark_with_processes_measures_real_work():
    done = benchmark("grading", "--json", "--minutes", "4", "--rounds", "1")
    result = json.loads(done.stdout.splitlines()[-1])
    (row,) = result["setup"]["results"]
    assert result["ratio"] > 0 and row["responses"] in (100, 200, 1100), done.stderr
    assert row["same_verdict"] > 0.8 and 0.3 < row["correct"] < 0.7
