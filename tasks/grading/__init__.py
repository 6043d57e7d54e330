"""Grades responses: math answers against gold answers, programs against test cases.

Entry points: `grade_one` (one answer), `Grader` (many answers, in worker processes that can be
killed), `grade_file` (`erpd grade`), `CodeGrader` (programs) and `open_grader` (the grader that an
extractor needs).

- extract.py: finds the final answer in a response
- normalize.py: one spelling for answers that differ only in typesetting
- numbers.py: exact reading of plain numbers with units
- structure.py: prose, lists, conditions and assignments
- fast.py: verdicts that need no sympy
- math_verify.py: formulas parsed and compared with Math-Verify
- math.py: `grade_one`, which combines the files above
- modes.py: grading rules of other projects (polaris.py, matharena.py; plain.py parses their
  formulas)
- workers.py, worker_main.py: the pool of worker processes and the worker's main program
- files.py: JSON-lines files
- code/: programs run on their test cases in sandboxes
"""

from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

from erpd_core.refs import Verdict
from tasks.grading.code.grader import CodeGrader
from tasks.grading.extract import EXTRACTORS, ExtractedAnswer, extract
from tasks.grading.files import grade_file
from tasks.grading.math import grade_one
from tasks.grading.workers import Grader, GraderError


class AnyGrader(Protocol):
    """The interface of a grader that rollouts use."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...
    def grade_many(self, pairs: Iterable[tuple[str, str]], extractor: str) -> list[Verdict]:
        """Return the verdicts of (gold, response) pairs, in the same order."""


def open_grader(extractor: str, workers: int | None = None) -> AnyGrader:
    """Create the grader of a problem list: `CodeGrader` for the extractor `code`, else `Grader`.

    `workers` is the maximum number of parallel processes or sandboxes; None selects the default.
    """
    return CodeGrader(workers) if extractor == "code" else Grader(workers)


__all__ = [
    "EXTRACTORS",
    "AnyGrader",
    "CodeGrader",
    "ExtractedAnswer",
    "Grader",
    "GraderError",
    "extract",
    "grade_file",
    "grade_one",
    "open_grader",
]
