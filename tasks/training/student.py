"""Stage 2: the student."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from erpd_core.columns import Column
from erpd_core.config import Distill, OptimizerConfig, SignalSpec
from erpd_core.parallel import WorkerGroup
from erpd_core.refs import Frozen, LogprobRef, TrainingRef
from erpd_core.schedule import kept_steps
from erpd_core.signals import FixedSignal, LiveSignal, Signal, build_signal, weighted_sum
from tasks.execution.stage import Context, Verb
from tasks.models.policy import vocabulary
from tasks.rollouts import load_batch, shards
from tasks.rollouts.score import open_column
from tasks.store import Build, Store
from tasks.training.off_policy import OffPolicyTraining, Phase


class SidedSignal(Frozen):
    """A signal whose sides have become columns; a side that is none, or live, has none."""

    spec: SignalSpec
    weight: float = 1.0
    numerator: LogprobRef | None
    denominator: LogprobRef | None


class SignalPhase(Frozen):
    """A distillation phase ready to run: the sum of its signals, for so many steps."""

    signals: tuple[SidedSignal, ...]
    steps: int

    def spec(self) -> dict[str, Any]:
        """What is done with the columns; which columns they are is said by the inputs."""
        first, *more = [_arithmetic(one) for one in self.signals]
        return {"signal": first, "steps": self.steps} | ({"plus": more} if more else {})


class DistillStudent(OffPolicyTraining):
    """Stage 2: the student. No teacher is in memory: its signal is arithmetic over columns (Sec.
    3.3).
    """

    VERB: ClassVar[Verb] = "distill"
    PHASE: ClassVar[str | None] = "distill"

    loss: Distill
    optimizer: OptimizerConfig
    minibatch: int
    keep: tuple[int, ...]
    phases: tuple[SignalPhase, ...]
    kl_stop: float | None = None

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

    def _learn(self, context: Context, build: Build, workers: WorkerGroup) -> TrainingRef:
        batch = load_batch(shards(context.store, self.rollouts))
        positive_N = batch.per_token(batch.reward_S > 0.5)
        phases = [
            Phase(self.loss, self._signal(context.store, phase, positive_N), phase.steps)
            for phase in self.phases
        ]
        guessing = math.log(vocabulary(context.store.path(self.init.id)))
        return self._train(
            context,
            build,
            workers,
            batch,
            phases,
            self.optimizer,
            self.minibatch,
            self.trail,
            self.kl_stop,
            kl_bound=guessing,
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
        built = [
            (
                one.weight,
                build_signal(
                    one.spec,
                    _column(store, one.numerator),
                    _column(store, one.denominator),
                    positive_N,
                ),
            )
            for one in phase.signals
        ]
        return FixedSignal(
            built[0][1] if len(built) == 1 else weighted_sum(built, first.spec.whiten)
        )


def _arithmetic(signal: SidedSignal) -> dict[str, Any]:
    live = {"denominator": "live"} if signal.spec.denominator == "live" else {}
    weight = {} if signal.weight == 1.0 else {"weight": signal.weight}
    # an earlier version cut in nats
    clip = {} if signal.spec.clip is None else {"clip": f"{signal.spec.clip} deviations"}
    return (
        signal.spec.model_dump(mode="json", exclude={"numerator", "denominator"})
        | live
        | weight
        | clip
    )


def _column(store: Store, ref: LogprobRef | None) -> Column | None:
    return None if ref is None else open_column(store, ref)
