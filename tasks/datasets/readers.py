"""What a row of a data set holds: the columns it must have, its problem as text, and its gold
answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from erpd_core.config import FileProblems, HubProblems
from tasks.datasets.code import livecodebench_prompt, livecodebench_tests, unit_tests
from tasks.untrusted.input_files import short

Pooled = FileProblems | HubProblems
Row = dict[str, Any]


@dataclass(frozen=True)
class RowReader:
    columns: Callable[[Pooled], tuple[str, ...]]
    """Columns that must hold something."""
    text: Callable[[Pooled, Row], str]
    """This and `answer` may raise ValueError, saying what is wrong with the row."""
    answer: Callable[[Pooled, Row], str]
    ids: tuple[str, ...] = ("id",)
    """Columns that may name a problem; the first that is there does."""


def _text(row: Row, column: str) -> str:
    """What stands in a column. Raises ValueError for what has no one way to be written: a list,
    an object, bytes, a number that is none.
    """
    value = row[column]
    if isinstance(value, list | dict | tuple | bytes) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise ValueError(f"{column} is {short(repr(value), 40)}, neither text nor a finite number")
    return str(value)


def _answer(source: Pooled, row: Row) -> str:
    # GSM8K keeps its reasoning before ####
    answer = _text(row, source.answer_column).rpartition("####")[2].strip()
    if not answer:
        raise ValueError(f"nothing stands after #### in {source.answer_column}")
    return answer


READERS = {
    "plain": RowReader(
        columns=lambda source: (source.problem_column, source.answer_column),
        text=lambda source, row: _text(row, source.problem_column),
        answer=_answer,
    ),
    "unit_tests": RowReader(
        columns=lambda source: (source.problem_column, source.answer_column),
        text=lambda source, row: _text(row, source.problem_column),
        answer=lambda source, row: unit_tests(row[source.answer_column]),
        ids=("id", "query_id", "question_id"),
    ),
    "livecodebench": RowReader(
        columns=lambda source: ("question_content", "public_test_cases", "private_test_cases"),
        text=lambda source, row: livecodebench_prompt(
            str(row["question_content"]), str(row.get("starter_code") or "")
        ),
        answer=lambda source, row: livecodebench_tests(row),
        ids=("question_id", "id"),
    ),
}
