"""Grade many programs, each in a sandbox of its own, as many at a time as there are processors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Literal

from erpd_core.refs import Verdict
from tasks.grading.code import probe
from tasks.grading.code.cases import Tests, read_tests
from tasks.grading.code.compare import same_output, same_value
from tasks.grading.code.extract import program
from tasks.grading.code.levels import Level, Limits
from tasks.grading.code.sandbox import Ran, Sandbox
from tasks.host.machine import cores

CodeVerdict = Literal["correct", "wrong", "timeout", "error"]


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    Example: `Outcome(verdict="wrong", passed=2, total=3, isolation="bubblewrap")`
    """

    verdict: CodeVerdict
    """`correct` if all cases passed, else how the first that did not ended."""
    passed: int
    total: int
    isolation: str


class CodeGrader:
    """Runs programs against test cases. Sandboxes live for one program each; between calls nothing
    runs.

    Example:
        with CodeGrader() as grader:
            grader.run([("print(int(input()) + 1)", read_tests({"inputs": ["1"], "outputs":
            ["2"]}))])

    **Arguments:** `workers`, programs at a time (processors, when None); `limits`, of a case;
    `level`, an isolation level to insist on (the best this machine has, when None). Raises
    SandboxError where no program can be isolated at all.
    """

    def __init__(
        self, workers: int | None = None, limits: Limits | None = None, level: Level | None = None
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be positive, got {workers}")
        self.limits = limits or Limits()
        self._level = level
        size = workers or cores()
        self._slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(size):
            self._slots.put(slot)
        # One thread waits on each sandbox. Sandboxes end with the thread that started them
        # (PR_SET_PDEATHSIG), which outlives its program.
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="code-grader")

    def __enter__(self) -> CodeGrader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let programs that run now end; the grader cannot be used afterwards."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def grade_many(
        self, pairs: Iterable[tuple[str, str]], extractor: str = "code"
    ) -> list[Verdict]:
        """Verdicts of (JSON of unit_tests, response) pairs, in their order. `unparsable` has no
        code block; an `error` is `wrong`.

        Raises ValueError for test cases that cannot be read, before anything runs.
        """
        if extractor != "code":
            raise ValueError(
                f"a CodeGrader takes answers with the extractor code, not {extractor!r}; use "
                f"Grader for answers"
            )
        pairs = list(pairs)
        tests = {gold: read_tests(gold) for gold in dict.fromkeys(gold for gold, _ in pairs)}
        programs = [program(response) for _, response in pairs]
        outcomes = iter(
            self.run(
                [
                    (code, tests[gold])
                    for (gold, _), code in zip(pairs, programs, strict=True)
                    if code is not None
                ]
            )
        )
        return [
            "unparsable" if code is None else _as_answer(next(outcomes).verdict)
            for code in programs
        ]

    def run(self, programs: Sequence[tuple[str, Tests]]) -> list[Outcome]:
        """Outcomes of (program, test cases) pairs, in their order."""
        return list(self._threads.map(lambda pair: self._one(*pair), programs))

    def _one(self, code: str, tests: Tests) -> Outcome:
        level, isolation = (self._level, self._level) if self._level else probe.best()
        slot = self._slots.get()
        try:
            verdict, passed = judge(level, code, tests, self.limits, slot)
        finally:
            self._slots.put(slot)
        return Outcome(verdict, passed, len(tests.inputs), isolation)


def _as_answer(verdict: CodeVerdict) -> Verdict:
    return "wrong" if verdict == "error" else verdict


def judge(
    level: Level, code: str, tests: Tests, limits: Limits, slot: int
) -> tuple[CodeVerdict, int]:
    """Run the cases one after the other in one sandbox; a new one replaces a sandbox that a case
    brought down.

    **Returns:** the verdict and the number of cases passed. A program is stopped early only once
    its verdict is known.
    """
    verdict: CodeVerdict = "correct"
    passed, until = 0, float("inf")
    sandbox: Sandbox | None = None
    try:
        for data, expected in zip(tests.inputs, tests.expected, strict=True):
            if time.monotonic() > until:
                break
            if sandbox is None or not sandbox.open:
                sandbox = Sandbox(level, code, tests.fn_name, limits, slot)
            ended = judge_case(sandbox.run(data), expected, functional=tests.fn_name is not None)
            passed += ended == "correct"
            if verdict == "correct" and ended != "correct":
                verdict, until = ended, time.monotonic() + limits.after_failure
    finally:
        if sandbox is not None:
            sandbox.close()
    return verdict, passed


def judge_case(ran: Ran, expected: object, functional: bool) -> CodeVerdict:
    """What a case's end means. It is `correct` only for the expected output, from a program that
    ran to its own end.
    """
    if ran.end != "exit":
        return "timeout" if ran.end == "time" else "error"
    try:
        said = json.loads(ran.result)
    except (ValueError, RecursionError):
        return "error"  # an exception, a crash, os._exit, or something forged
    if not isinstance(said, dict):
        return "error"
    if not functional:
        same = "done" in said and same_output(ran.output.decode("utf-8", "replace"), str(expected))
    else:
        same = "value" in said and same_value(said["value"], expected)
    return "correct" if same else "wrong"
