"""Answer checking: `grade_one` for one answer, `Grader` for many in killable processes,
`grade_file` for `erpd grade`; `CodeGrader`.

extract.py (find the answer), normalise.py (one spelling), numbers.py (exact numbers), fast.py
(verdicts without sympy), structure.py (prose, conditions, assignments), math.py (Math-Verify),
modes.py (others' rules, in polaris.py and matharena.py, on plain.py), workers.py and worker_main.py
(processes), files.py (JSON lines). code/ (programs and their test cases, in sandboxes).
"""

from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

from erpd_core.refs import Verdict
from tasks.grading.code.grader import CodeGrader
from tasks.grading.extract import EXTRACTORS, Answer, extract
from tasks.grading.files import grade_file
from tasks.grading.math import grade_one
from tasks.grading.workers import Grader, GraderError


class AnyGrader(Protocol):
    """What rollouts need of a grader."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...
    def grade_many(self, pairs: Iterable[tuple[str, str]], extractor: str) -> list[Verdict]:
        """Verdicts of (gold, response) pairs, in their order."""


def open_grader(extractor: str, workers: int | None = None) -> AnyGrader:
    """The grader of a problem list: for `code`, of programs and their test cases (code/); for
    all others, of answers.
    """
    return CodeGrader(workers) if extractor == "code" else Grader(workers)


__all__ = [
    "EXTRACTORS",
    "Answer",
    "AnyGrader",
    "CodeGrader",
    "Grader",
    "GraderError",
    "extract",
    "grade_file",
    "grade_one",
    "open_grader",
]
