"""What a row of a data set holds: the columns it must have, its problem as text, and its gold answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from erpd_core.config import FileProblems, HubProblems
from tasks.datasets.code import livecodebench_prompt, livecodebench_tests, unit_tests

Pooled = FileProblems | HubProblems
Row = dict[str, Any]


@dataclass(frozen=True)
class RowReader:
    columns: Callable[[Pooled], tuple[str, ...]]
    """Columns that must hold something."""
    text: Callable[[Pooled, Row], str]
    answer: Callable[[Pooled, Row], str]
    """May raise ValueError, saying what is wrong with the row."""
    ids: tuple[str, ...] = ("id",)
    """Columns that may name a problem; the first that is there does."""


def _answer(source: Pooled, row: Row) -> str:
    answer = str(row[source.answer_column]).rpartition("####")[2].strip()  # GSM8K keeps its reasoning before ####
    if not answer:
        raise ValueError(f"nothing stands after #### in {source.answer_column}")
    return answer


READERS = {
    "plain": RowReader(
        columns=lambda source: (source.problem_column, source.answer_column),
        text=lambda source, row: str(row[source.problem_column]),
        answer=_answer,
    ),
    "unit_tests": RowReader(
        columns=lambda source: (source.problem_column, source.answer_column),
        text=lambda source, row: str(row[source.problem_column]),
        answer=lambda source, row: unit_tests(row[source.answer_column]),
        ids=("id", "query_id", "question_id"),
    ),
    "livecodebench": RowReader(
        columns=lambda source: ("question_content", "public_test_cases", "private_test_cases"),
        text=lambda source, row: livecodebench_prompt(str(row["question_content"]), str(row.get("starter_code") or "")),
        answer=lambda source, row: livecodebench_tests(row),
        ids=("question_id", "id"),
    ),
}
