"""What the responses of a rollout answered: votes for majority@K, and a row for every problem.

Answers are grouped as the grader tells them apart. Right ones are one group: each is equal to the
gold. Wrong ones are grouped by their normalised spelling first; the grader compares spellings only
where that could change which group is largest, so that most problems cost it nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from erpd_core.evaluation_details import ProblemResult
from erpd_core.refs import RolloutRef
from erpd_core.scoring import Outcomes
from tasks.datasets import load_problems
from tasks.grading import EXTRACTORS, Grader, extract
from tasks.grading.normalise import key
from tasks.rollouts import shards
from tasks.store import Store

LONGEST = 200
"""Characters. A longer wrong answer is prose without a mark: compared by its spelling only."""
RIGHT = "\N{NULL}"
"""The group of right answers; no answer is spelt so."""


@dataclass
class Responses:
    """The K responses to one problem, in order of their samples."""

    gold: str
    outcomes: list[float] = field(default_factory=list)
    answers: list[str | None] = field(default_factory=list)
    """As written; None where the grader found none."""
    groups: list[str | None] = field(default_factory=list)
    """What each votes for: equal for equivalent answers, None where there is no answer."""
    lengths: list[int] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    unanswered: int = 0
    """In how many the grader found no answer."""

    def result(self, benchmark: str, problem: str) -> ProblemResult:
        """The row of a per-problem table."""
        counts = Counter(group for group in self.groups if group is not None)
        winner, votes = counts.most_common(1)[0] if counts else (None, 0)
        return ProblemResult(
            benchmark=benchmark,
            problem=problem,
            gold=self.gold,
            samples=len(self.outcomes),
            solved=round(sum(self.outcomes)),
            length=sum(self.lengths) / len(self.lengths),
            truncated=sum(self.truncated),
            unanswered=self.unanswered,
            answer=self.answers[self.groups.index(winner)] if votes else None,
            votes=votes,
        )


def read_responses(store: Store, ref: RolloutRef, tried: Outcomes) -> dict[str, Responses]:
    """Problem id -> what its responses answered, in the order of the benchmark. Texts are read
    piece by piece and not kept.

    **Arguments:** `tried`, the outcomes that count; they may call more answers right than the
    rollout's own verdicts do.
    """
    code = ref.problems.extractor == "code"
    golds = {
        problem.id: "" if code else problem.answer for problem in load_problems(store, ref.problems)
    }
    found: dict[str, Responses] = {}
    for row in _rows(store, ref):
        one = found.setdefault(row["problem"], Responses(golds[row["problem"]]))
        outcome = tried[row["problem"]][len(one.outcomes)]
        answer = _answer(row, outcome, ref.problems.extractor)
        one.outcomes.append(outcome)
        one.answers.append(answer)
        one.groups.append(None if answer is None else RIGHT if outcome > 0.5 else _spelling(answer))
        one.lengths.append(row["length"])
        one.truncated.append(row["truncated"])
        one.unanswered += _unanswered(row, outcome)
    _join_equal(found)
    return found


def _rows(store: Store, ref: RolloutRef) -> Iterator[dict[str, Any]]:
    columns = ["problem", "text", "verdict", "truncated", "response_tokens"]
    for path in shards(store, ref):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=columns):
            lengths = pc.list_value_length(batch["response_tokens"]).to_pylist()
            for row, length in zip(batch.select(columns[:-1]).to_pylist(), lengths, strict=True):
                yield {**row, "length": length}


def _answer(row: Mapping[str, Any], outcome: float, extractor: str) -> str | None:
    """What a response voted for; a program is no answer that others could have given too."""
    if extractor not in EXTRACTORS or _unanswered(row, outcome):
        return None
    answer = extract(row["text"], extractor)
    return answer.text if answer else None


def _unanswered(row: Mapping[str, Any], outcome: float) -> bool:
    return row["verdict"] == "unparsable" and outcome <= 0.5


def _spelling(answer: str) -> str:
    return key(answer) or answer


def _join_equal(found: Mapping[str, Responses]) -> None:
    """Give spellings that the grader calls equal one group, in place."""
    asked = [
        (one, a, b) for one in found.values() for a, b in combinations(_worth_comparing(one), 2)
    ]
    if not asked:
        return
    with Grader() as grader:
        verdicts = grader.grade_many(
            [(str(one.answers[a]), str(one.answers[b])) for one, a, b in asked]
        )
    for (one, a, b), verdict in zip(asked, verdicts, strict=True):
        if verdict == "correct":
            one.groups = [
                one.groups[a] if group == one.groups[b] else group for group in one.groups
            ]


def _worth_comparing(one: Responses) -> list[int]:
    """A sample of each wrong group, if together they have as many votes as the right one: only
    then can joining them change who wins.
    """
    counts = Counter(group for group in one.groups if group is not None)
    right = counts.pop(RIGHT, 0)
    if not 0 < right <= counts.total():
        return []
    samples = [one.groups.index(group) for group in counts]
    return [
        sample
        for sample in samples
        if (answer := one.answers[sample]) and answer.strip() and len(answer) <= LONGEST
    ]
