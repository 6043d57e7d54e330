"""How far a student follows its teacher, token by token on the fixed batch (Fig. 7, Fig. 10)."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import torch
from torch import Tensor

from erpd_core.refs import Frozen, LogprobRef, RolloutRef
from erpd_core.schedule import Phase
from tasks.execution.stage import Context, Stage, Verb
from tasks.rollouts import load_batch, shards
from tasks.rollouts.score import load_column
from tasks.store import Build

FILE = "signal.json"
BINS = 20
"""Number of groups of `by_deviation`."""
EDGES = (-8.0, 8.0, 64)
"""Lowest and highest edge of the log-ratio histograms in nats, and their number of bins. Values
outside are counted in the outer bins.
"""


class SignalRef(Frozen):
    """Reference to the stored statistics of a student."""

    id: str


class MeasureSignal(Stage[SignalRef]):
    """Deviations of teacher and student from the old policy, on the tokens of the batch.

    `|lp_student - lp_old| / |lp_teacher - lp_old|` by the teacher's deviation (Fig. 7), and the
    log-ratios to old on right and on wrong responses (Fig. 10).
    """

    KIND: ClassVar[str] = "signal"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = SignalRef
    VERB: ClassVar[Verb] = "score"
    PHASE: ClassVar[Phase | None] = "score"
    CPU_ONLY: ClassVar[bool] = True

    rollouts: RolloutRef
    old: LogprobRef
    teacher: LogprobRef
    student: LogprobRef

    def spec(self) -> dict[str, Any]:
        return {"bins": BINS, "edges": EDGES}

    def inputs(self) -> dict[str, str]:
        return {
            "rollouts": self.rollouts.id,
            "old": self.old.id,
            "teacher": self.teacher.id,
            "student": self.student.id,
        }

    def compute(self, context: Context, build: Build) -> SignalRef:
        batch = load_batch(shards(context.store, self.rollouts))
        positive_N = batch.reward_S[batch.seq_N] > 0.5
        old_N = load_column(context.store, self.old)
        teacher_N = load_column(context.store, self.teacher) - old_N
        student_N = load_column(context.store, self.student) - old_N
        statistics = {
            "deviation": by_deviation(teacher_N, student_N),
            "teacher": by_outcome(teacher_N, positive_N),
            "student": by_outcome(student_N, positive_N),
        }
        build.put(FILE, lambda path: path.write_text(json.dumps(statistics)))
        return SignalRef(id=build.id)


def by_deviation(teacher_N: Tensor, student_N: Tensor) -> list[dict[str, float]]:
    """Mean deviations from old of teacher and student, in groups of tokens (Fig. 7).

    Tokens are sorted by |teacher - old| into `BINS` groups of equal size. The ratio of a group is
    the ratio of its means, because many tokens have a teacher deviation near 0. Groups that the
    teacher did not move are left out.

    **Arguments:**
        teacher_N: lp_teacher - lp_old of every token, in nats.
        student_N: lp_student - lp_old of every token, in nats.
    """
    order = teacher_N.abs().argsort()
    rows = []
    for group in order.chunk(BINS):
        teacher = teacher_N[group].abs().double().mean().item()
        student = student_N[group].abs().double().mean().item()
        if teacher > 1e-6:
            rows.append(
                {
                    "teacher": teacher,
                    "student": student,
                    "ratio": student / teacher,
                    "tokens": len(group),
                }
            )
    return rows


def by_outcome(ratio_N: Tensor, positive_N: Tensor) -> dict[str, dict[str, Any]]:
    """Histogram, mean and quantiles of a log-ratio on right and on wrong responses (Fig. 10).

    **Arguments:**
        ratio_N: Log-ratio of every token, in nats.
        positive_N: Whether the token's response is right.
    """
    low, high, bins = EDGES
    statistics = {}
    for name, mask in (("positive", positive_N), ("negative", ~positive_N)):
        values = ratio_N[mask].double()
        if len(values):
            counts = (
                torch.histc(values.clamp(low, high), bins=bins, min=low, max=high).long().tolist()
            )
            probe = torch.tensor([0.001, 0.01, 0.5, 0.99, 0.999], dtype=torch.float64)
            # quantile() refuses more than 2^24 values
            sample = values if len(values) <= 1 << 24 else values[:: len(values) // (1 << 24) + 1]
            statistics[name] = {
                "counts": counts,
                "edges": [low, high],
                "mean": values.mean().item(),
                "quantiles": sample.quantile(probe).tolist(),
                "tokens": len(values),
            }
    return statistics
