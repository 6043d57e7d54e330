"""Typical programs of people and models in real sandboxes, at every supported isolation level."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from isolation import require

from tasks.grading import open_grader
from tasks.grading.code import probe
from tasks.grading.code.cases import read_tests
from tasks.grading.code.grader import CodeGrader, Outcome
from tasks.grading.code.levels import LEVELS, Level, Limits

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module", params=LEVELS)
def grader(request: pytest.FixtureRequest) -> Iterator[CodeGrader]:
    level: Level = request.param
    require(level)
    assert probe.holes(level) == []
    with CodeGrader(workers=2, level=level) as grader:
        yield grader


def graded(
    grader: CodeGrader, code: str, inputs: list[str], outputs: list[str], fn_name: str | None = None
) -> tuple[str, int]:
    (outcome,) = grader.run(
        [(code, read_tests({"inputs": inputs, "outputs": outputs, "fn_name": fn_name}))]
    )
    assert outcome.total == len(inputs)
    return outcome.verdict, outcome.passed


STYLES = {
    "input()": "a, b = map(int, input().split())\nprint(a + b)",
    "sys.stdin": "import sys\nprint(sum(map(int, sys.stdin.read().split())))",
    "stdin from the preamble": "print(sum(int(x) for x in stdin.readline().split()))",
    "buffer": "import sys\nprint(sum(map(int, sys.stdin.buffer.readline().split())))",
    "open(0)": "print(sum(map(int, open(0).read().split())))",
    "/dev/stdin": "print(sum(map(int, open('/dev/stdin').read().split())))",
    "os.read": "import os\nprint(sum(map(int, os.read(0, 100).split())))",
    "main guard": "def main():\n    print(sum(map(int, input().split())))\nif __name__ == "
    "'__main__':\n "
    "   main()",
    "global": "total = 0\ndef add(x):\n    global total\n    total += x\nfor x in "
    "input().split():\n    add(int(x))\nprint(total)",
    "future": "from __future__ import annotations\ndef f(x: Undefined): return "
    "int(x)\nprint(sum(map(f, input().split())))",
    "imports of the preamble": "print(reduce(add, map(int, input().split())) + gcd(0, 0) + "
    "len(deque()) + "
    "len(defaultdict(int)))",
    "sys.exit": "import sys\nprint(sum(map(int, input().split())))\nsys.exit(1)",
    "exit()": "print(sum(map(int, input().split())))\nexit()",
    "thread": "import threading, sys\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**26)\n"
    "def main():\n    print(sum(map(int, input().split())))\nthreading.Thread(target=main).start()",
    "many threads": "from concurrent.futures import ThreadPoolExecutor\nwith "
    "ThreadPoolExecutor(30) as "
    "pool:\n"
    "    print(sum(pool.map(int, input().split())) + sum(pool.map(lambda n: 0, range(1000))))",
    "processes": "import subprocess, sys\na = input()\n"
    "print(subprocess.run([sys.executable, '-c', f'print(sum(map(int, {a.split()!r})))'], "
    "capture_output=True, text=True).stdout)",
    "atexit": "import atexit, io, os, sys\nsys.stdout = io.StringIO()\n"
    "atexit.register(lambda: os.write(1, sys.stdout.getvalue().encode()))\n"
    "print(sum(map(int, input().split())))",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return 0 if n == 0 "
    "else 1 "
    "+ f(n "
    "- 1)\n"
    "assert f(30000) == 30000\nprint(sum(map(int, input().split())))",
    "deep recursion in C": "from functools import lru_cache\n@lru_cache(None)\ndef f(n): return 0 "
    "if n "
    "== 0 "
    "else "
    "1 + f(n - 1)\n"
    "assert f(20000) == 20000\nprint(sum(map(int, input().split())))",
    "temporary file": "open('a.txt', 'w').write(input())\nprint(sum(map(int, "
    "open('a.txt').read().split())))",
    "dataclass": "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: "
    "int\nprint(sum(P(int(x)).x for x in input().split()))",
    "stderr": "import sys\nprint('debug', file=sys.stderr)\nprint(sum(map(int, input().split())))",
}


def test_every_way_to_read_and_write(grader: CodeGrader) -> None:
    tests = read_tests({"inputs": ["1 2\n", "20 22"], "outputs": ["3\n", "42"]})
    outcomes = grader.run([(code, tests) for code in STYLES.values()])
    assert {
        name: outcome.verdict
        for name, outcome in zip(STYLES, outcomes, strict=True)
        if outcome.verdict != "correct"
    } == {}
    assert {(outcome.passed, outcome.total) for outcome in outcomes} == {(2, 2)}


@pytest.mark.parametrize(
    "code",
    [
        "class Solution:\n    def pick(self, xs: List[int], k: int) -> List[int]:\n        return "
        "sorted(xs)[:k]",
        "def pick(xs, k):\n    return tuple(nsmallest(k, xs))",
        "class Solution:\n    seen = []\n    def pick(self, xs, k):\n        self.seen += xs\n    "
        "    return sorted(self.seen)[:k]",
        "def helper(xs, k): return sorted(xs)[:k]\ndef pick(*a): return helper(*a)\nif __name__ "
        "== '__main__': raise ValueError",
    ],
    ids=["method", "function", "class state is fresh", "helpers"],
)
def test_functions(grader: CodeGrader, code: str) -> None:
    inputs, outputs = ["[3, 1, 2]\n2", "[5]\n1", "[9, 8, 7]\n0"], ["[1, 2]", "[5]", "[]"]
    assert graded(grader, code, inputs, outputs, "pick") == ("correct", 3)


def test_functions_that_fail(grader: CodeGrader) -> None:
    assert graded(grader, "def f(x): return x + 1", ["1", "2"], ["2", "4"], "f") == ("wrong", 1)
    assert graded(grader, "def g(x): return x", ["1"], ["1"], "f") == ("error", 0)
    assert graded(grader, "def f(x): return {x}", ["1"], ["[1]"], "f") == ("wrong", 0)
    assert graded(grader, "def f(x): return f(x)", ["1"], ["1"], "f") == ("error", 0)
    assert graded(grader, "def f(x): return x == 1", ["1"], ["true"], "f") == ("correct", 1)


def test_numpy_is_there_where_the_sandbox_runs_our_python_and_only_there(
    grader: CodeGrader,
) -> None:
    """At the level "limits", the system's Python without our packages replaces a Python in a folder
    that only root can read.
    """
    from tasks.grading.code import levels

    start = levels.start(grader._level or "limits", Limits(), 0)
    if start.folder:
        Path(start.folder).rmdir()
    if not start.packages:
        assert graded(grader, "import numpy\nprint(1)", ["1"], ["1"]) == ("error", 0)
        return
    code = "import numpy as np\nprint(np.array(input().split(), dtype=int).sum())"
    assert graded(grader, code, ["1 2"], ["3"]) == ("correct", 1)
    assert graded(
        grader, "import numpy\ndef f(x): return numpy.array(x) * 2", ["[1, 2]"], ["[2, 4]"], "f"
    ) == ("correct", 1)


def test_the_verdict_is_that_of_the_first_failure_and_all_passes_count(grader: CodeGrader) -> None:
    code = "n = int(input())\nif n == 2: raise ValueError\nif n == 3: print('no')\nelse: print(n)"
    assert graded(grader, code, ["1", "2", "3", "4"], ["1", "2", "3", "4"]) == ("error", 2)
    assert graded(grader, code, ["3", "2", "1"], ["3", "2", "1"]) == ("wrong", 1)
    assert graded(grader, "print(", ["1"], ["1"]) == ("error", 0)
    assert graded(grader, "", ["1", "1"], ["1", ""]) == ("wrong", 1)


def test_a_case_finds_nothing_of_the_one_before(grader: CodeGrader) -> None:
    code = (
        "import os\nprint('a' in os.listdir('.'))\nos.makedirs('a/b')\nopen('a/b/c', "
        "'w')\nimport builtins\nbuiltins.print = None"
    )
    assert graded(grader, code, ["", "", ""], ["False"] * 3) == ("correct", 3)


def test_large_input_and_output(grader: CodeGrader) -> None:
    numbers = "\n".join(map(str, range(400_000)))
    assert graded(
        grader, "import sys\nsys.stdout.write(sys.stdin.read())", [numbers], [numbers]
    ) == ("correct", 1)


def test_a_slow_case_times_out_and_the_others_count(grader: CodeGrader) -> None:
    code = "import time\nn = int(input())\ntime.sleep(30 if n == 1 else 0)\nprint(n)"
    with CodeGrader(workers=1, limits=Limits(deadline=2.0), level=grader._level) as quick:
        assert graded(quick, code, ["0", "1", "2"], ["0", "1", "2"]) == ("timeout", 2)


def test_a_known_verdict_ends_a_program_early(grader: CodeGrader) -> None:
    with CodeGrader(
        workers=1, limits=Limits(deadline=1.5, after_failure=1.0), level=grader._level
    ) as quick:
        (outcome,) = quick.run(
            [("while True: pass", read_tests({"inputs": ["1"] * 50, "outputs": ["1"] * 50}))]
        )
    assert outcome == Outcome("timeout", 0, 50, grader._level or "")


# --------------------------------------------------------------------------- rollouts and real data


def test_responses_are_graded_like_answers() -> None:
    gold = json.dumps({"inputs": ["1", "5"], "outputs": ["2", "6"]})
    right, broken = (
        "```python\nprint(int(input()) + 1)\n```",
        "```python\nprint(int(input() + 1)\n```",
    )
    pairs = [
        (gold, f"<think>{broken}</think>{right}"),
        (gold, broken),
        (gold, "It is 2."),
        (gold, "```\nprint(2)\n```"),
        (gold, right),
    ]
    with open_grader("code") as grader:
        assert grader.grade_many(pairs, extractor="code") == [
            "correct",
            "wrong",
            "unparsable",
            "wrong",
            "correct",
        ]
        with pytest.raises(ValueError, match="unit_tests"):
            grader.grade_many([("42", right)], extractor="code")


def shared(name: str) -> list[dict]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there: it is not part of this repository")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rollouts_get_the_reward_that_others_gave_them() -> None:
    rows = shared("code_graded_rollouts.jsonl")
    with CodeGrader() as grader:
        outcomes = grader.run([(row["code"], read_tests(row["unit_tests"])) for row in rows])
    assert [float(outcome.verdict == "correct") for outcome in outcomes] == [
        row["reward"] for row in rows
    ]
    assert [outcome.total for outcome in outcomes] == [
        len(row["unit_tests"]["inputs"]) for row in rows
    ]
    for outcome, row in zip(outcomes, rows, strict=True):
        # the recorded results stop at the first failure
        assert outcome.passed >= sum(result is True for result in row["result"])


def test_scored_programs_pass_the_fraction_that_others_found() -> None:
    rows = shared("code_verl_scored.jsonl")
    with CodeGrader() as grader:
        outcomes = grader.run([(row["code"], read_tests(row["tests"])) for row in rows])
    assert [outcome.passed / outcome.total for outcome in outcomes] == [
        row["expected_fraction"] for row in rows
    ]
