"""What a student made of its signal, token by token on the fixed batch: the data of Fig. 7 and
Fig. 10.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import torch
from torch import Tensor

from erpd_core.refs import Frozen, LogprobRef, RolloutRef
from tasks.execution.stage import Context, Stage, Verb
from tasks.rollouts import load_batch, shards
from tasks.rollouts.score import load_column
from tasks.store import Build

FILE = "signal.json"
BINS = 20
EDGES = (-8.0, 8.0, 64)
"""Nats: lowest and highest edge of the log-ratio histograms, and how many bins; what lies
outside is counted in the outer bins.
"""


class SignalRef(Frozen):
    """The statistics of one student's signal in the store."""

    id: str


class MeasureSignal(Stage[SignalRef]):
    """`|lp_student - lp_old| / |lp_teacher - lp_old|` by how far the teacher went (Fig. 7), and
    log-ratios by outcome (Fig. 10).
    """

    KIND: ClassVar[str] = "signal"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = SignalRef
    VERB: ClassVar[Verb] = "score"
    PHASE: ClassVar[str | None] = "score"
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
        found = {
            "deviation": by_deviation(teacher_N, student_N),
            "teacher": by_outcome(teacher_N, positive_N),
            "student": by_outcome(student_N, positive_N),
        }
        build.put(FILE, lambda path: path.write_text(json.dumps(found)))
        return SignalRef(id=build.id)


def by_deviation(teacher_N: Tensor, student_N: Tensor) -> list[dict[str, float]]:
    """Tokens in `BINS` equal groups by |teacher - old|: each group's mean teacher and student
    deviation and their ratio (Fig. 7).

    The ratio is one of means, so that tokens the teacher hardly moved do not divide by nothing.
    Groups it did not move are left out.
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
    """Histogram, mean and extreme quantiles of a log-ratio on right and on wrong responses (Fig.
    10).
    """
    low, high, bins = EDGES
    found = {}
    for name, mask in (("positive", positive_N), ("negative", ~positive_N)):
        values = ratio_N[mask].double()
        if len(values):
            counts = (
                torch.histc(values.clamp(low, high), bins=bins, min=low, max=high).long().tolist()
            )
            probe = torch.tensor([0.001, 0.01, 0.5, 0.99, 0.999], dtype=torch.float64)
            # quantile() refuses more than 2^24 values
            sample = values if len(values) <= 1 << 24 else values[:: len(values) // (1 << 24) + 1]
            found[name] = {
                "counts": counts,
                "edges": [low, high],
                "mean": values.mean().item(),
                "quantiles": sample.quantile(probe).tolist(),
                "tokens": len(values),
            }
    return found
