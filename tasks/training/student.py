"""The stage that distils a student (stage 2 of the method)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from erpd_core.columns import Column
from erpd_core.config import Distill, OptimizerConfig, SignalSpec
from erpd_core.refs import Frozen, LogprobRef
from erpd_core.schedule import Phase, kept_steps
from erpd_core.signals import FixedSignal, LiveSignal, Signal, build_signal, weighted_sum
from tasks.execution.stage import Context, Verb
from tasks.models.policy import vocabulary
from tasks.rollouts import load_batch, shards
from tasks.rollouts.score import open_column
from tasks.store import Store
from tasks.training.off_policy import OffPolicyTraining, TrainingPhase, TrainingPlan


class SidedSignal(Frozen):
    """A signal with the columns of its two sides; a side that is absent or live has no column."""

    spec: SignalSpec
    weight: float = 1.0
    numerator: LogprobRef | None
    denominator: LogprobRef | None


class SignalPhase(Frozen):
    """A distillation phase that is ready to run: optimizer steps on the sum of its signals."""

    signals: tuple[SidedSignal, ...]
    steps: int

    def spec(self) -> dict[str, Any]:
        """What is computed from the columns; the stage's inputs name the columns."""
        first, *more = [_arithmetic(signal) for signal in self.signals]
        return {"signal": first, "steps": self.steps} | ({"plus": more} if more else {})


class DistillStudent(OffPolicyTraining):
    """Distil a student from columns of log-probs (stage 2 of the method).

    The signal is arithmetic over columns, so no teacher is in memory (Sec. 3.3).
    """

    VERB: ClassVar[Verb] = "distill"
    PHASE: ClassVar[Phase | None] = "distill"

    loss: Distill
    optimizer: OptimizerConfig
    minibatch: int
    keep: tuple[int, ...]
    phases: tuple[SignalPhase, ...]
    kl_stop: float | None = None
    """KL(old || student) that ends the training: k3 on the step's minibatch, in nats per token."""

    @property
    def trail(self) -> tuple[int, ...]:
        return kept_steps(self.keep, sum(phase.steps for phase in self.phases))

    def spec(self) -> dict[str, Any]:
        fields = {"loss", "optimizer", "minibatch", "seed"}
        stop = {} if self.kl_stop is None else {"kl_stop": self.kl_stop}
        phases = [phase.spec() for phase in self.phases]
        return {
            **self.model_dump(mode="json", include=fields),
            **stop,
            "trail": self.trail,
            "phases": phases,
        }

    def inputs(self) -> dict[str, str]:
        inputs = {"init": self.init.id, "rollouts": self.rollouts.id, "old": self.old.id}
        for number, phase in enumerate(self.phases, 1):
            for part, signal in enumerate(phase.signals):
                place = f"{number}.{part}" if part else f"{number}"
                if signal.numerator:
                    inputs[f"numerator-{place}"] = signal.numerator.id
                if signal.denominator:
                    inputs[f"denominator-{place}"] = signal.denominator.id
        return inputs

    def plan(self, context: Context) -> TrainingPlan:
        batch = load_batch(shards(context.store, self.rollouts))
        positive_N = batch.per_token(batch.reward_S > 0.5)
        phases = [
            TrainingPhase(self.loss, self._signal(context.store, phase, positive_N), phase.steps)
            for phase in self.phases
        ]
        return TrainingPlan(
            batch=batch,
            phases=phases,
            optimizer=self.optimizer,
            minibatch=self.minibatch,
            keep=self.trail,
            kl_stop=self.kl_stop,
            # beyond this, uniform guessing among all tokens is closer to old
            kl_bound=math.log(vocabulary(context.store.path(self.init.id))),
        )

    def _signal(self, store: Store, phase: SignalPhase, positive_N: Column) -> Signal:
        first = phase.signals[0]
        if first.spec.denominator == "live":
            assert first.numerator is not None, (
                "the config checks that a live denominator has a policy as numerator"
            )
            return LiveSignal(
                first.spec,
                open_column(store, first.numerator),
                open_column(store, self.old),
                positive_N,
            )
        weighted = [
            (
                signal.weight,
                build_signal(
                    signal.spec,
                    _column(store, signal.numerator),
                    _column(store, signal.denominator),
                    positive_N,
                ),
            )
            for signal in phase.signals
        ]
        return FixedSignal(
            weighted[0][1] if len(weighted) == 1 else weighted_sum(weighted, first.spec.whiten)
        )


def _arithmetic(signal: SidedSignal) -> dict[str, Any]:
    """The settings of a signal that affect its values, without the identities of its columns."""
    live = {"denominator": "live"} if signal.spec.denominator == "live" else {}
    weight = {} if signal.weight == 1.0 else {"weight": signal.weight}
    # names the unit, since an earlier version clipped in nats
    clip = {} if signal.spec.clip is None else {"clip": f"{signal.spec.clip} deviations"}
    return (
        signal.spec.model_dump(mode="json", exclude={"numerator", "denominator"})
        | live
        | weight
        | clip
    )


def _column(store: Store, ref: LogprobRef | None) -> Column | None:
    return None if ref is None else open_column(store, ref)
