"""Grades many programs in parallel, each in its own sandbox."""

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
    """The outcome of a program on its test cases.

    **Example:** `Outcome(verdict="wrong", passed=2, total=3, isolation="bubblewrap")`
    """

    verdict: CodeVerdict
    """`correct` if all cases passed, else the result of the first case that did not pass."""
    passed: int
    """Number of cases passed."""
    total: int
    """Number of cases."""
    isolation: str
    """Isolation level, with what it does not stop (as in "limits without network")."""


class CodeGrader:
    """Runs programs on their test cases. Each program gets a new sandbox, removed afterwards.

    **Example:**
        with CodeGrader() as grader:
            grader.run([("print(int(input()) + 1)", read_tests({"inputs": ["1"], "outputs":
            ["2"]}))])

    **Arguments:**
        workers: Programs at a time; None means one per core.
        limits: Limits of a test case; None means the defaults.
        level: Required isolation level; None means the best that works on this machine.
    **Raises:** ValueError if `workers` is not positive. Grading raises SandboxError if no program
        can be isolated.
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
        # One thread waits on each sandbox. A sandbox dies with the thread that started it
        # (PR_SET_PDEATHSIG); pool threads outlive the programs.
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
        """Wait for running programs to end. The grader cannot be used afterwards."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def grade_many(
        self, pairs: Iterable[tuple[str, str]], extractor: str = "code"
    ) -> list[Verdict]:
        """Grade (JSON of unit_tests, response) pairs.

        **Returns:** The verdicts, in the order of the pairs. A response without a code block is
            `unparsable`. A program that ends with an `error` is `wrong`.
        **Raises:** ValueError for invalid test cases, before anything runs.
        """
        if extractor != "code":
            raise ValueError(
                f"CodeGrader grades programs (extractor 'code'), not {extractor!r}; use "
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
            "unparsable" if code is None else _answer_verdict(next(outcomes).verdict)
            for code in programs
        ]

    def run(self, programs: Sequence[tuple[str, Tests]]) -> list[Outcome]:
        """Run (program, test cases) pairs and return their outcomes, in the same order."""
        return list(self._threads.map(lambda pair: self._run_one(*pair), programs))

    def _run_one(self, code: str, tests: Tests) -> Outcome:
        level, isolation = (self._level, self._level) if self._level else probe.best()
        slot = self._slots.get()
        try:
            verdict, passed = judge(level, code, tests, self.limits, slot)
        finally:
            self._slots.put(slot)
        return Outcome(verdict, passed, len(tests.inputs), isolation)


def _answer_verdict(verdict: CodeVerdict) -> Verdict:
    return "wrong" if verdict == "error" else verdict


def judge(
    level: Level, code: str, tests: Tests, limits: Limits, slot: int
) -> tuple[CodeVerdict, int]:
    """Run the cases of one program one after another in a sandbox.

    A new sandbox replaces one that a case destroyed. After the first case that does not pass, the
    verdict is known and the other cases have `limits.after_failure` seconds in total.

    **Returns:** The verdict and the number of cases passed.
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
    """The verdict of one case.

    `correct` requires the expected output from a program that ran to its end.
    """
    if ran.end != "exit":
        return "timeout" if ran.end == "time" else "error"
    try:
        message = json.loads(ran.result)
    except (ValueError, RecursionError):
        return "error"  # an exception, a crash, os._exit or a forged message
    if not isinstance(message, dict):
        return "error"
    if not functional:
        same = "done" in message and same_output(
            ran.output.decode("utf-8", "replace"), str(expected)
        )
    else:
        same = "value" in message and same_value(message["value"], expected)
    return "correct" if same else "wrong"
