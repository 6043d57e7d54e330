"""The stage that judges a rollout: which responses the judge turns to correct.

Its artifact is separate; the rollout's own verdicts and rewards stay.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from erpd_core.config.judge import JudgeConfig
from erpd_core.refs import JudgedRef, RolloutRef
from tasks.datasets import load_problems
from tasks.evaluation.judge.judge import OUTCOMES, JudgeItem, judge_answers
from tasks.evaluation.judge.prompt import judge_spec
from tasks.execution.stage import Context, Stage, Verb
from tasks.grading import EXTRACTORS
from tasks.rollouts import shards
from tasks.store import Build, Store

FILE = "judged.parquet"
SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("sample", pa.int32()),
        ("rules", pa.string()),
        ("judge", pa.string()),
    ]
)
"""Columns of `FILE`: a row for each response that the rules do not call correct, in order."""


class JudgeRollouts(Stage[JudgedRef]):
    """Judge every response of a rollout that the rules do not call correct.

    Equal answers to one problem are judged once.
    """

    KIND: ClassVar[str] = "judged"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = JudgedRef
    VERB: ClassVar[Verb] = "evaluate"

    rollouts: RolloutRef
    judge: JudgeConfig

    def spec(self) -> dict[str, Any]:
        return judge_spec(self.judge)

    def inputs(self) -> dict[str, str]:
        return {"rollouts": self.rollouts.id, "problems": self.rollouts.problems.id}

    def compute(self, context: Context, build: Build) -> JudgedRef:
        problems = {
            problem.id: problem for problem in load_problems(context.store, self.rollouts.problems)
        }
        columns = ["problem", "sample", "text", "verdict"]
        rows = [
            row
            for path in shards(context.store, self.rollouts)
            for row in pq.read_table(path, columns=columns).to_pylist()
            if row["verdict"] != "correct"
        ]
        items = [
            JudgeItem(problems[row["problem"]].prompt, problems[row["problem"]].answer, row["text"])
            for row in rows
        ]
        own = self.rollouts.problems.extractor
        # the other grading rules extract no answer that could be sent
        extractor = own if own in EXTRACTORS else "auto"
        report = judge_answers(
            items,
            self.judge,
            extractor=extractor,
            tick=lambda done: context.progress(done, len(items)),
        )
        table = pa.table(
            {
                "problem": [row["problem"] for row in rows],
                "sample": [row["sample"] for row in rows],
                "rules": [row["verdict"] for row in rows],
                "judge": list(report.outcomes),
            },
            schema=SCHEMA,
        )
        build.put(FILE, lambda path: pq.write_table(table, path, compression="zstd"))
        return JudgedRef(
            id=build.id,
            rollouts=self.rollouts.id,
            outcomes={outcome: report.outcomes.count(outcome) for outcome in OUTCOMES},
            calls=report.calls,
            tokens=report.tokens,
            spent=report.spent,
        )


def judged_outcomes(
    store: Store, rollouts: RolloutRef, judged: JudgedRef
) -> dict[str, list[float]]:
    """Problem id -> its outcomes: 1 if the rules or the judge call the response correct."""
    table = pq.read_table(store.path(judged.id) / FILE)
    turned = {
        (row["problem"], row["sample"]) for row in table.to_pylist() if row["judge"] == "same"
    }
    outcomes: dict[str, list[float]] = {}
    for path in shards(store, rollouts):
        for row in pq.read_table(path, columns=["problem", "sample", "reward"]).to_pylist():
            outcomes.setdefault(row["problem"], []).append(
                1.0 if (row["problem"], row["sample"]) in turned else row["reward"]
            )
    return outcomes
