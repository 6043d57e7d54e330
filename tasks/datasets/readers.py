"""Readers of data set rows: required columns, problem text, gold answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from erpd_core.config import FileProblems, HubProblems
from tasks.datasets.code import livecodebench_prompt, livecodebench_tests, unit_tests
from tasks.untrusted.input_files import short

Pooled = FileProblems | HubProblems
SourceRow = dict[str, Any]


@dataclass(frozen=True)
class RowReader:
    """How the rows of one kind of data set are read."""

    columns: Callable[[Pooled], tuple[str, ...]]
    """Columns that must not be empty."""
    text: Callable[[Pooled, SourceRow], str]
    """Text of the problem. It and `answer` may raise ValueError with what is wrong in the row."""
    answer: Callable[[Pooled, SourceRow], str]
    ids: tuple[str, ...] = ("id",)
    """Columns that may hold the problem's id; the first one present is used."""


def _text(row: SourceRow, column: str) -> str:
    """The value of a column, as text.

    **Raises:** ValueError for a value without a unique text: a list, an object, bytes, NaN,
        infinity.
    """
    value = row[column]
    if isinstance(value, list | dict | tuple | bytes) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise ValueError(f"{column} is {short(repr(value), 40)}, neither text nor a finite number")
    return str(value)


def _answer(source: Pooled, row: SourceRow) -> str:
    # GSM8K keeps its reasoning before ####
    answer = _text(row, source.answer_column).rpartition("####")[2].strip()
    if not answer:
        raise ValueError(f"there is nothing after #### in {source.answer_column}")
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
