"""Answers of a rollout's responses: votes for majority@K, and a row for every problem.

Equivalent answers form one group. The right answers are one group, since each equals the gold.
Wrong answers are grouped by their normalized spelling. The grader then compares the spellings, but
only where that could change which group is largest; most problems need no comparison.
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
from tasks.grading.normalize import key
from tasks.rollouts import shards
from tasks.store import Store

LONGEST = 200
"""Characters; longer wrong answers are unmarked prose, and are compared only by spelling."""
RIGHT = "\N{NULL}"
"""The group of right answers; no answer has this spelling."""


@dataclass
class Responses:
    """The K responses to one problem, in order of their samples."""

    gold: str
    outcomes: list[float] = field(default_factory=list)
    answers: list[str | None] = field(default_factory=list)
    """Each answer as written; None if the grader found none."""
    groups: list[str | None] = field(default_factory=list)
    """The group each answer votes for, the same for equivalent answers; None without an answer."""
    lengths: list[int] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    unanswered: int = 0
    """Number of responses in which the grader found no answer."""

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
    """Problem id -> its responses, in the order of the benchmark.

    Texts are read in batches and not kept.

    **Arguments:**
        tried: The outcomes that count. They may call more answers right than the rollout's own
            verdicts, because of a judge.
    """
    code = ref.problems.extractor == "code"
    golds = {
        problem.id: "" if code else problem.answer for problem in load_problems(store, ref.problems)
    }
    by_problem: dict[str, Responses] = {}
    for row in _rows(store, ref):
        responses = by_problem.setdefault(row["problem"], Responses(golds[row["problem"]]))
        outcome = tried[row["problem"]][len(responses.outcomes)]
        answer = _answer(row, outcome, ref.problems.extractor)
        responses.outcomes.append(outcome)
        responses.answers.append(answer)
        responses.groups.append(
            None if answer is None else RIGHT if outcome > 0.5 else _spelling(answer)
        )
        responses.lengths.append(row["length"])
        responses.truncated.append(row["truncated"])
        responses.unanswered += _unanswered(row, outcome)
    _join_equal(by_problem)
    return by_problem


def _rows(store: Store, ref: RolloutRef) -> Iterator[dict[str, Any]]:
    columns = ["problem", "text", "verdict", "truncated", "response_tokens"]
    for path in shards(store, ref):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=columns):
            lengths = pc.list_value_length(batch["response_tokens"]).to_pylist()
            for row, length in zip(batch.select(columns[:-1]).to_pylist(), lengths, strict=True):
                yield {**row, "length": length}


def _answer(row: Mapping[str, Any], outcome: float, extractor: str) -> str | None:
    """The answer of a response; None if there is none, or if it is a program, which has no vote."""
    if extractor not in EXTRACTORS or _unanswered(row, outcome):
        return None
    answer = extract(row["text"], extractor)
    return answer.text if answer else None


def _unanswered(row: Mapping[str, Any], outcome: float) -> bool:
    return row["verdict"] == "unparsable" and outcome <= 0.5


def _spelling(answer: str) -> str:
    return key(answer) or answer


def _join_equal(by_problem: Mapping[str, Responses]) -> None:
    """Merge the groups of spellings that the grader calls equal, in place."""
    pairs = [
        (responses, a, b)
        for responses in by_problem.values()
        for a, b in combinations(_worth_comparing(responses), 2)
    ]
    if not pairs:
        return
    with Grader() as grader:
        verdicts = grader.grade_many(
            [(str(responses.answers[a]), str(responses.answers[b])) for responses, a, b in pairs]
        )
    for (responses, a, b), verdict in zip(pairs, verdicts, strict=True):
        if verdict == "correct":
            responses.groups = [
                responses.groups[a] if group == responses.groups[b] else group
                for group in responses.groups
            ]


def _worth_comparing(responses: Responses) -> list[int]:
    """A sample of each wrong group, if merging such groups could change which group is largest.

    That is so if together they have at least as many votes as the right group.
    """
    counts = Counter(group for group in responses.groups if group is not None)
    right = counts.pop(RIGHT, 0)
    if not 0 < right <= counts.total():
        return []
    samples = [responses.groups.index(group) for group in counts]
    return [
        sample
        for sample in samples
        if (answer := responses.answers[sample]) and answer.strip() and len(answer) <= LONGEST
    ]
