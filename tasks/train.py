"""Training on a fixed batch: stage 1 teachers and stage 2 students are the same loop with other losses and signals."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from pydantic import model_validator

from erpd_core.advantages import gae, group_normalised, length_adaptive_lambda, whitened
from erpd_core.batch import TokenBatch
from erpd_core.columns import Column
from erpd_core.config import PPO, Distill, Loss, OptimizerConfig, RuntimeConfig, SignalSpec, TrainConfig, WeakTeacherConfig
from erpd_core.faults import placed
from erpd_core.finite import require_bounded_kl
from erpd_core.optimize import Record, make_optimizer, optimize
from erpd_core.refs import Frozen, LogprobRef, RolloutRef, TrainingRef, ValuesRef
from erpd_core.signals import FixedSignal, LiveSignal, Signal, build_signal, weighted_sum
from erpd_core.team import ALONE, Team
from tasks.checkpoint import resume
from tasks.lesson import check_lesson
from tasks.models import HFPolicy, load_policy, vocabulary
from tasks.rollouts import load_batch, shards
from tasks.score import load_column, open_column
from tasks.stage import Context
from tasks.store import Build, Store
from tasks.training import Training


@dataclass(frozen=True)
class Phase:
    """A stretch of steps on one loss and one signal."""

    loss: Loss
    signal: Signal
    steps: int


class _OffPolicy(Training):
    """A training on one fixed batch, by the stage's own process or by several workers (`tasks.sharding`)."""

    rollouts: RolloutRef
    old: LogprobRef

    def waits(self, runtime: RuntimeConfig) -> bool:
        return runtime.trains_apart

    def run(self, context: Context, build: Build) -> TrainingRef:
        if not context.runtime.trains_apart:
            return self.train(context, build, ALONE)
        from tasks.sharding.gang import train_together

        return train_together(self, context, build)

    def train(self, context: Context, build: Build, team: Team) -> TrainingRef:
        """Take every step. Each member of the team makes this call, and gets the answer that the first has written.

        Raises Fault, in each of them, when the numbers do not let it go on (docs/faults.md).
        """
        with placed(f"{self.role} training"):
            return self._learn(context, build, team)

    @abstractmethod
    def _learn(self, context: Context, build: Build, team: Team) -> TrainingRef: ...

    def _policy(self, context: Context, team: Team) -> HFPolicy:
        folder = context.store.path(self.init.id)
        if team.size > 1:
            from tasks.sharding.policy import ShardedPolicy  # here, so that training alone imports no FSDP

            return ShardedPolicy(folder, context.runtime, team)
        policy = load_policy(folder, context.runtime)
        if context.runtime.recompute:
            policy.recompute()
        return policy

    def _train(
        self,
        context: Context,
        build: Build,
        team: Team,
        batch: TokenBatch,
        phases: Sequence[Phase],
        optimizer_config: OptimizerConfig,
        minibatch: int,
        keep: Sequence[int],
        kl_stop: float | None = None,
        kl_bound: float = math.inf,
    ) -> TrainingRef:
        policy = self._policy(context, team)
        optimizer = make_optimizer(policy, optimizer_config)
        done, records = resume(build, policy, optimizer, team)
        old_N = open_column(context.store, self.old)
        total = sum(phase.steps for phase in phases)

        def steps_of(number: int, phase: Phase, before: int) -> Iterator[Record]:
            return optimize(
                policy,
                optimizer,
                batch,
                old_N,
                phase.signal,
                phase.loss,
                steps=phase.steps,
                start=min(max(done - before, 0), phase.steps),
                minibatch=minibatch,
                seed=self.seed + number,
                max_grad_norm=optimizer_config.max_grad_norm,
                token_budget=context.runtime.token_budget,
                team=team,
            )

        for record in _in_order(phases, steps_of):
            step, kl = int(record["step"]), record["kl_old_theta_on_old_batch"]
            records.append(record)
            stopped = kl_stop is not None and kl >= kl_stop
            if stopped:
                keep = [*(kept for kept in keep if kept < step), step]
            else:
                require_bounded_kl(record, kl_bound, step)
            self.after_step(context, build, policy, optimizer, records, keep, team)
            if team.first:
                context.progress(step, total, loss=round(record["loss"], 4), entropy=round(record["entropy"], 3))
            if stopped:
                break
        return self.finish(build, records, keep, team)


def _in_order(phases: Sequence[Phase], steps_of: Callable[[int, Phase, int], Iterator[Record]]) -> Iterator[Record]:
    """The records of one phase after the other, their steps counted through."""
    before = 0
    for number, phase in enumerate(phases):
        with placed(f"phase {number + 1}") if len(phases) > 1 else nullcontext():
            for record in steps_of(number, phase, before):
                yield {**record, "step": int(record["step"]) + before}
        before += phase.steps


class TrainTeacher(_OffPolicy):
    """Stage 1: an extreme policy, and the trail to it (Sec. 3.1, 3.4)."""

    config: TrainConfig | WeakTeacherConfig
    values: ValuesRef | None = None
    """What a critic says of the batch (`tasks.critic.TrainCritic`); PPO needs it, no other loss has a use for it."""

    @model_validator(mode="after")
    def _values_are_for_ppo(self) -> TrainTeacher:
        if isinstance(self.config.loss, PPO) != (self.values is not None):
            raise ValueError(f"loss {self.config.loss.kind}: the values of a critic go with PPO and with nothing else")
        if self.values is not None and self.values.rollouts != self.rollouts.id:
            raise ValueError(f"the values are of {self.values.rollouts}, the batch is {self.rollouts.id}; take the values of this batch")
        return self

    def question(self) -> dict[str, Any]:
        return {"config": self.config.model_dump(mode="json"), "role": self.role, "trail": self.config.trail, "seed": self.seed}

    def inputs(self) -> dict[str, str]:
        inputs = {"init": self.init.id, "rollouts": self.rollouts.id, "old": self.old.id}
        return inputs if self.values is None else {**inputs, "values": self.values.id}

    def _learn(self, context: Context, build: Build, team: Team) -> TrainingRef:
        check_lesson(context.store, self.rollouts, self.config.loss)
        batch = load_batch(shards(context.store, self.rollouts))
        phase = Phase(self.config.loss, FixedSignal(self._advantages(context.store, batch)), self.config.steps)
        return self._train(context, build, team, batch, [phase], self.config.optimizer, self.config.minibatch, self.config.trail)

    def _advantages(self, store: Store, batch: TokenBatch) -> Column:
        """A token's advantage, fixed for the whole training: its trajectory's among its group, or for PPO its own, by the critic."""
        loss = self.config.loss
        if self.values is None or not isinstance(loss, PPO):
            return batch.per_token(group_normalised(batch.reward_S, batch.group_S))
        value_N = load_column(store, self.values, "value")
        return whitened(gae(batch.reward_S, value_N, batch.length_S, length_adaptive_lambda(batch.length_S, loss.alpha)))


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

    def question(self) -> dict[str, Any]:
        """What is done with the columns; which columns they are is said by the inputs."""
        first, *more = [_arithmetic(one) for one in self.signals]
        return {"signal": first, "steps": self.steps} | ({"plus": more} if more else {})


class DistillStudent(_OffPolicy):
    """Stage 2: the student. No teacher is in memory: its signal is arithmetic over columns (Sec. 3.3)."""

    loss: Distill
    optimizer: OptimizerConfig
    minibatch: int
    keep: tuple[int, ...]
    phases: tuple[SignalPhase, ...]
    kl_stop: float | None = None

    @property
    def trail(self) -> tuple[int, ...]:
        total = sum(phase.steps for phase in self.phases)
        return tuple(sorted({*(step for step in self.keep if step < total), total}))

    def question(self) -> dict[str, Any]:
        fields = {"loss", "optimizer", "minibatch", "seed"}
        stop = {} if self.kl_stop is None else {"kl_stop": self.kl_stop}
        phases = [phase.question() for phase in self.phases]
        return {**self.model_dump(mode="json", include=fields), **stop, "trail": self.trail, "phases": phases}

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

    def _learn(self, context: Context, build: Build, team: Team) -> TrainingRef:
        batch = load_batch(shards(context.store, self.rollouts))
        positive_N = batch.per_token(batch.reward_S > 0.5)
        phases = [Phase(self.loss, self._signal(context.store, phase, positive_N), phase.steps) for phase in self.phases]
        guessing = math.log(vocabulary(context.store.path(self.init.id)))
        return self._train(context, build, team, batch, phases, self.optimizer, self.minibatch, self.trail, self.kl_stop, kl_bound=guessing)

    def _signal(self, store: Store, phase: SignalPhase, positive_N: Column) -> Signal:
        first = phase.signals[0]
        if first.spec.denominator == "live":
            assert first.numerator is not None, "the config checks that a live denominator has a policy as numerator"
            return LiveSignal(first.spec, open_column(store, first.numerator), open_column(store, self.old), positive_N)
        built = [
            (one.weight, build_signal(one.spec, _column(store, one.numerator), _column(store, one.denominator), positive_N))
            for one in phase.signals
        ]
        return FixedSignal(built[0][1] if len(built) == 1 else weighted_sum(built, first.spec.whiten))


def _arithmetic(signal: SidedSignal) -> dict[str, Any]:
    live = {"denominator": "live"} if signal.spec.denominator == "live" else {}
    weight = {} if signal.weight == 1.0 else {"weight": signal.weight}
    clip = {} if signal.spec.clip is None else {"clip": f"{signal.spec.clip} deviations"}  # an earlier version cut in nats
    return signal.spec.model_dump(mode="json", exclude={"numerator", "denominator"}) | live | weight | clip


def _column(store: Store, ref: LogprobRef | None) -> Column | None:
    return None if ref is None else open_column(store, ref)
