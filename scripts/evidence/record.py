"""What is kept of a study on one seed: every policy's scores and distances, and of every
training what its claims look at.
"""

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
"""Steps of a training that are kept: enough to draw, few enough to commit."""
RESPONSES = 16
"""To each problem, online and offline alike; an online step takes as many problems."""
WORK = ("rollouts", "score", "teacher", "distill")
"""Phases of an iteration that are work of the method; validating and testing are left out."""
CURVE_COLUMNS = (
    "loss", "entropy", "kl_old_theta_on_old_batch", "log_ratio_positive", "log_ratio_negative",
    "prob_positive", "prob_negative", "explained_variance", "reward", "seconds_rollout",
    "seconds_update",
)  # fmt: skip


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True)


class Policy(_Kept):
    """A measured policy. Example: `Policy(iteration=1, role="student", strategy="S1", step=32,
    score=0.81, kl_old=0.05, ...)`
    """

    iteration: int
    role: str
    strategy: str
    step: int | None
    score: float
    """Mean over the test problems of the share of right answers."""
    k: int
    problems: int
    kl_old: float
    """k1 on the policy's own fresh samples, nats per token: from its iteration's start."""
    kl_base: float
    entropy: float
    length: float


class TrainingCurve(_Kept):
    """A training run: the validation score of the steps it kept, and its records at some of its
    steps.
    """

    iteration: int
    role: str
    validation: dict[int, float]
    steps: tuple[int, ...]
    columns: dict[str, tuple[float | None, ...]]
    seconds: float | None

    @property
    def seconds_a_step(self) -> float:
        """Of sampling and updating, by the records that are kept."""
        return sum(self.mean(name) for name in self.columns if name.startswith("seconds_"))

    def mean(self, column: str) -> float:
        """Over the records that are kept. **Raises:** statistics.StatisticsError: none of them
        has it.
        """
        return statistics.fmean(value for value in self.columns[column] if value is not None)


class ArmRecord(_Kept):
    policies: tuple[Policy, ...]
    trainings: tuple[TrainingCurve, ...]
    seconds: tuple[dict[str, float], ...]
    """For each iteration, seconds of each phase; what another arm worked out before counts with
    what it cost there.
    """

    def policy(self, role: str, iteration: int = 1) -> Policy:
        return next(one for one in self.policies if (one.role, one.iteration) == (role, iteration))

    @property
    def work(self) -> float:
        """Seconds of work in the first iteration."""
        return sum(self.seconds[0][phase] for phase in WORK)

    @property
    def base(self) -> Policy:
        return self.policy("base", 0)

    @property
    def validated(self) -> float:
        """Validation score of the first iteration's student, at the step that was chosen."""
        return self.curve("student").validation[self.policy("student").step or 0]

    def curve(self, role: str, iteration: int = 1) -> TrainingCurve:
        return next(one for one in self.trainings if (one.role, one.iteration) == (role, iteration))


class Record(_Kept):
    """A study on one seed. Example: `Record(study="steps", seed=0, commit="9adfb98",
    arms={"sapo-4": ...})`
    """

    study: str
    seed: int
    commit: str | None
    seconds: float
    """Wall clock of the whole command; what it found in the store cost nothing."""
    arms: dict[str, ArmRecord]


def arm_record(registry: Registry, store: Store, campaign: str) -> ArmRecord:
    """What a finished campaign leaves."""
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
        {name: round(spent, 2) for name, spent in one.seconds.items()}
        for one in registry.iterations(campaign)
    )
    return ArmRecord(
        policies=tuple(policies),
        trainings=tuple(_curves(registry.artifacts(campaign), store)),
        seconds=seconds,
    )


def _curves(attached: Sequence[Attached], store: Store) -> list[TrainingCurve]:
    return [_curve(one, attached, store) for one in attached if one.role.endswith(" training")]


def _curve(one: Attached, attached: Sequence[Attached], store: Store) -> TrainingCurve:
    role = one.role.removesuffix(" training")
    kept = thin(training_records(store, one.artifact.id))
    return TrainingCurve(
        iteration=one.iteration,
        role=role,
        validation=validation_scores(attached, one.iteration, role),
        steps=tuple(int(record["step"]) for record in kept),
        columns={
            name: tuple(_rounded(record.get(name)) for record in kept)
            for name in CURVE_COLUMNS
            if any(name in one for one in kept)
        },
        seconds=one.artifact.seconds,
    )


def thin(records: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """The first, the last, and evenly between them."""
    if len(records) <= CURVE_POINTS:
        return list(records)
    step = (len(records) - 1) / (CURVE_POINTS - 1)
    return [records[round(place * step)] for place in range(CURVE_POINTS)]


def _rounded(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def record_path(folder: Path, study: str, seed: int) -> Path:
    return folder / f"{study}-{seed}.json"


def read_records(folder: Path, study: str) -> list[Record]:
    """All seeds of a study, in order."""
    found = [
        Record.model_validate_json(path.read_bytes()) for path in folder.glob(f"{study}-*.json")
    ]
    return sorted(found, key=lambda one: one.seed)
