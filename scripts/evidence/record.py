"""The record of a study on one seed: scores and KL of every policy, and training curves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from flows.reports.campaign import training_records, validation_scores
from flows.reports.results import table_rows
from tasks.registry import Attached, Registry
from tasks.store import Store

RECORDS = Path("docs/results/evidence")
CURVE_POINTS = 40
"""Steps kept of a training: enough to draw a curve, few enough to commit."""
RESPONSES = 16
"""Responses per problem, online and offline; also the number of problems of an online step."""
WORK = ("rollouts", "score", "teacher", "distill")
"""Phases of an iteration that count as work; validation and testing do not."""
CURVE_COLUMNS = (
    "loss", "entropy", "kl_old_theta_on_old_batch", "log_ratio_positive", "log_ratio_negative",
    "prob_positive", "prob_negative", "explained_variance", "reward", "seconds_rollout",
    "seconds_update",
)  # fmt: skip


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True)


class Policy(_Kept):
    """A measured policy.

    **Example:** `Policy(iteration=1, role="student", strategy="S1", step=32, score=0.81, ...)`
    """

    iteration: int
    role: str
    strategy: str
    step: int | None
    score: float
    """Share of right answers, mean over the test problems."""
    k: int
    problems: int
    kl_old: float
    """KL(policy || its iteration's start), k1 on the policy's own fresh samples, nats per token."""
    kl_base: float
    """The same from the campaign's base."""
    entropy: float
    length: float


class TrainingCurve(_Kept):
    """A training run: validation scores of its kept steps, and records of some steps."""

    iteration: int
    role: str
    validation: dict[int, float]
    steps: tuple[int, ...]
    columns: dict[str, tuple[float | None, ...]]
    seconds: float | None

    @property
    def seconds_a_step(self) -> float:
        """Mean seconds of sampling and updating per step, over the kept records."""
        return sum(self.mean(name) for name in self.columns if name.startswith("seconds_"))

    def mean(self, column: str) -> float:
        """Return the mean over the kept records. Raises StatisticsError if none has the column."""
        return statistics.fmean(value for value in self.columns[column] if value is not None)


class ArmRecord(_Kept):
    """The record of one arm of a study."""

    policies: tuple[Policy, ...]
    trainings: tuple[TrainingCurve, ...]
    seconds: tuple[dict[str, float], ...]
    """Seconds of each phase, per iteration. A stage that another arm computed counts with what it
    took there.
    """

    def policy(self, role: str, iteration: int = 1) -> Policy:
        return next(
            policy
            for policy in self.policies
            if (policy.role, policy.iteration) == (role, iteration)
        )

    @property
    def work(self) -> float:
        """Seconds of the phases of WORK in the first iteration."""
        return sum(self.seconds[0][phase] for phase in WORK)

    @property
    def base(self) -> Policy:
        return self.policy("base", 0)

    @property
    def validated(self) -> float:
        """Validation score of the first iteration's student, at the selected step."""
        return self.curve("student").validation[self.policy("student").step or 0]

    def curve(self, role: str, iteration: int = 1) -> TrainingCurve:
        return next(
            training
            for training in self.trainings
            if (training.role, training.iteration) == (role, iteration)
        )


class Record(_Kept):
    """A study on one seed.

    **Example:** `Record(study="steps", seed=0, commit="9adfb98", arms={"sapo-4": ...})`
    """

    study: str
    seed: int
    commit: str | None
    seconds: float
    """Wall clock of the whole command; stages found in the store cost nothing."""
    arms: dict[str, ArmRecord]


def arm_record(registry: Registry, store: Store, campaign: str) -> ArmRecord:
    """Return the record of a finished campaign."""
    policies = [
        Policy(
            iteration=row.iteration,
            role=row.role,
            strategy=row.strategy,
            step=row.step,
            score=row.mean,
            k=next(iter(row.report.scores.values())).k,
            problems=sum(score.problems for score in row.report.scores.values()),
            **row.report.model_dump(include={"kl_old", "kl_base", "entropy", "length"}),
        )
        for row in table_rows(registry, campaign)
    ]
    seconds = tuple(
        {name: round(spent, 2) for name, spent in iteration.seconds.items()}
        for iteration in registry.iterations(campaign)
    )
    return ArmRecord(
        policies=tuple(policies),
        trainings=tuple(_curves(registry.artifacts(campaign), store)),
        seconds=seconds,
    )


def _curves(attached: Sequence[Attached], store: Store) -> list[TrainingCurve]:
    return [
        _curve(artifact, attached, store)
        for artifact in attached
        if artifact.role.endswith(" training")
    ]


def _curve(training: Attached, attached: Sequence[Attached], store: Store) -> TrainingCurve:
    role = training.role.removesuffix(" training")
    kept = thin(training_records(store, training.artifact.id))
    return TrainingCurve(
        iteration=training.iteration,
        role=role,
        validation=validation_scores(attached, training.iteration, role),
        steps=tuple(int(record["step"]) for record in kept),
        columns={
            name: tuple(_rounded(record.get(name)) for record in kept)
            for name in CURVE_COLUMNS
            if any(name in record for record in kept)
        },
        seconds=training.artifact.seconds,
    )


def thin(records: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """Return at most CURVE_POINTS records, evenly spaced, with the first and the last."""
    if len(records) <= CURVE_POINTS:
        return list(records)
    step = (len(records) - 1) / (CURVE_POINTS - 1)
    return [records[round(place * step)] for place in range(CURVE_POINTS)]


def _rounded(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def record_path(folder: Path, study: str, seed: int) -> Path:
    """Return the path of a record in its folder."""
    return folder / f"{study}-{seed}.json"


def read_records(folder: Path, study: str) -> list[Record]:
    """Return the records of all seeds of a study, sorted by seed."""
    records = [
        Record.model_validate_json(path.read_bytes()) for path in folder.glob(f"{study}-*.json")
    ]
    return sorted(records, key=lambda record: record.seed)
