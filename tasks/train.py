"""Training on a fixed batch: stage 1 teachers and stage 2 students are the same loop with other losses and signals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import model_validator
from torch import Tensor

from erpd_core.advantages import gae, group_normalised, length_adaptive_lambda, whitened
from erpd_core.batch import TokenBatch
from erpd_core.config import PPO, Distill, DistillPhase, Loss, OptimizerConfig, TrainConfig, WeakTeacherConfig
from erpd_core.optimize import Record, make_optimizer, optimize
from erpd_core.refs import LogprobRef, PolicyRef, Role, RolloutRef, TrainingRef, ValuesRef
from erpd_core.signals import build_signal
from tasks.checkpoint import RESUME, checkpoint, put_records, read_records, resume
from tasks.models import HFPolicy, load_policy, save_policy
from tasks.rollouts import load_batch, shards
from tasks.score import load_column
from tasks.stage import Context, Stage
from tasks.store import Build, Store


@dataclass(frozen=True)
class Phase:
    """A stretch of steps on one loss and one signal column."""

    loss: Loss
    signal_N: Tensor
    steps: int


class _Training(Stage[TrainingRef]):
    KIND: ClassVar[str] = "training"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = TrainingRef

    init: PolicyRef
    rollouts: RolloutRef
    old: LogprobRef
    role: Role
    seed: int

    def stored(self, store: Store) -> TrainingRef | None:
        """A training whose kept policies are not all there, whole, has to be done again; those that are whole stay."""
        ref = super().stored(store)
        if ref is not None and not all([store.has(policy.id) for policy in ref.trail]):
            store.discard(ref.id)
            return None
        return ref

    def _train(
        self,
        context: Context,
        build: Build,
        batch: TokenBatch,
        phases: Sequence[Phase],
        optimizer_config: OptimizerConfig,
        minibatch: int,
        keep: Sequence[int],
    ) -> TrainingRef:
        policy = load_policy(context.store.path(self.init.id), context.runtime)
        optimizer = make_optimizer(policy, optimizer_config)
        done, records = resume(build, policy, optimizer)
        old_N = load_column(context.store, self.old)
        total = sum(phase.steps for phase in phases)
        trail = [self._policy_ref(build.id, step) for step in keep]
        offset = 0
        for number, phase in enumerate(phases):
            steps = optimize(
                policy,
                optimizer,
                batch,
                old_N,
                phase.signal_N,
                phase.loss,
                steps=phase.steps,
                start=min(max(done - offset, 0), phase.steps),
                minibatch=minibatch,
                seed=self.seed + number,
                max_grad_norm=optimizer_config.max_grad_norm,
                token_budget=context.runtime.token_budget,
            )
            for record in steps:
                step = int(record["step"]) + offset
                records.append({**record, "step": step})
                if step in keep:
                    self._keep(context, build.id, step, policy)
                if step % context.runtime.checkpoint_every == 0 and step < total:
                    checkpoint(build, policy, optimizer, step, records)
                context.progress(step, total, loss=round(record["loss"], 4), entropy=round(record["entropy"], 3))
            offset += phase.steps
        put_records(build, records)
        build.drop(RESUME)
        return TrainingRef(id=build.id, trail=tuple(trail))

    def _policy_ref(self, training: str, step: int) -> PolicyRef:
        return PolicyRef(id=KeptPolicy(training=training, step=step).identity(), role=self.role, step=step)

    def _keep(self, context: Context, training: str, step: int, policy: HFPolicy) -> None:
        kept = KeptPolicy(training=training, step=step)
        with context.store.build(kept.KIND, kept.question(), kept.inputs(), kept.VERSION) as build:
            if build is None:
                return
            scratch = build.folder / ".scratch"
            save_policy(policy, scratch, like=context.store.path(self.init.id))
            for path in sorted(scratch.iterdir()):
                build.put(path.name, path.rename)
            scratch.rmdir()
            build.commit({"ref": self._policy_ref(training, step).model_dump(mode="json")})


class KeptPolicy(Stage[PolicyRef]):
    """The identity of a policy kept at a step of a training run. It is made by that run, never by itself."""

    KIND: ClassVar[str] = "policy"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = PolicyRef

    training: str
    step: int

    def question(self) -> dict[str, Any]:
        return {"step": self.step}

    def inputs(self) -> dict[str, str]:
        return {"training": self.training}

    def run(self, context: Context, build: Build) -> PolicyRef:
        raise LookupError(f"step {self.step} of {self.training} is not in the store; run the training again")


class TrainTeacher(_Training):
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

    def run(self, context: Context, build: Build) -> TrainingRef:
        batch = load_batch(shards(context.store, self.rollouts))
        phase = Phase(self.config.loss, self._advantages(context.store, batch), self.config.steps)
        return self._train(context, build, batch, [phase], self.config.optimizer, self.config.minibatch, self.config.trail)

    def _advantages(self, store: Store, batch: TokenBatch) -> Tensor:
        """A token's advantage, fixed for the whole training: its trajectory's among its group, or for PPO its own, by the critic."""
        loss = self.config.loss
        if self.values is None or not isinstance(loss, PPO):
            return group_normalised(batch.reward_S, batch.group_S)[batch.seq_N]
        value_N = load_column(store, self.values, "value")
        return whitened(gae(batch.reward_S, value_N, batch.length_S, length_adaptive_lambda(batch.length_S, loss.alpha)))


class SignalPhase(DistillPhase):
    """A distillation phase whose sides have become columns."""

    steps: int
    numerator: LogprobRef | None
    denominator: LogprobRef | None


class DistillStudent(_Training):
    """Stage 2: the student. No teacher is in memory: its signal is arithmetic over columns (Sec. 3.3)."""

    loss: Distill
    optimizer: OptimizerConfig
    minibatch: int
    keep: tuple[int, ...]
    phases: tuple[SignalPhase, ...]

    @property
    def trail(self) -> tuple[int, ...]:
        total = sum(phase.steps for phase in self.phases)
        return tuple(sorted({*(step for step in self.keep if step < total), total}))

    def question(self) -> dict[str, Any]:
        fields = {"loss", "optimizer", "minibatch", "seed"}
        phases = [{"signal": _arithmetic(phase), "steps": phase.steps} for phase in self.phases]
        return {**self.model_dump(mode="json", include=fields), "trail": self.trail, "phases": phases}

    def inputs(self) -> dict[str, str]:
        inputs = {"init": self.init.id, "rollouts": self.rollouts.id, "old": self.old.id}
        for number, phase in enumerate(self.phases, 1):
            if phase.numerator:
                inputs[f"numerator-{number}"] = phase.numerator.id
            if phase.denominator:
                inputs[f"denominator-{number}"] = phase.denominator.id
        return inputs

    def run(self, context: Context, build: Build) -> TrainingRef:
        batch = load_batch(shards(context.store, self.rollouts))
        positive_N = batch.reward_S[batch.seq_N] > 0.5
        phases = [
            Phase(
                self.loss,
                build_signal(phase.signal, _column(context.store, phase.numerator), _column(context.store, phase.denominator), positive_N),
                phase.steps,
            )
            for phase in self.phases
        ]
        return self._train(context, build, batch, phases, self.optimizer, self.minibatch, self.trail)


def _arithmetic(phase: DistillPhase) -> dict[str, Any]:
    """What is done with the columns; which columns they are is said by the inputs."""
    return phase.signal.model_dump(mode="json", exclude={"numerator", "denominator"})


def _column(store: Store, ref: LogprobRef | None) -> Tensor | None:
    return None if ref is None else load_column(store, ref)


def load_records(store: Store, ref: TrainingRef | ValuesRef) -> list[Record]:
    """The record of every optimizer step, in order."""
    return read_records(store.path(ref.id))
