"""Training on a fixed batch: stage 1 teachers and stage 2 students are the same loop with other losses and signals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from erpd_core.advantages import group_normalised
from erpd_core.batch import TokenBatch
from erpd_core.config import Distill, Loss, OptimizerConfig, SignalSpec, TrainConfig, WeakTeacherConfig
from erpd_core.optimize import Record, make_optimizer, optimize
from erpd_core.refs import Frozen, LogprobRef, PolicyRef, Role, RolloutRef, TrainingRef
from erpd_core.signals import FixedSignal, LiveSignal, Signal, build_signal, weighted_sum
from tasks.models import HFPolicy, load_policy, save_policy
from tasks.rollouts import load_batch, shards
from tasks.score import load_column
from tasks.stage import Context, Stage
from tasks.store import Build, Store

RESUME = "resume.safetensors"
RECORDS = "records.jsonl"


@dataclass(frozen=True)
class Phase:
    """A stretch of steps on one loss and one signal."""

    loss: Loss
    signal: Signal
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
        kl_stop: float | None = None,
    ) -> TrainingRef:
        policy = load_policy(context.store.path(self.init.id), context.runtime)
        optimizer = make_optimizer(policy, optimizer_config)
        done, records = _resume(build, policy, optimizer)
        old_N = load_column(context.store, self.old)
        total = sum(phase.steps for phase in phases)
        stopped = False
        offset = 0
        for number, phase in enumerate(phases):
            if stopped:
                break
            steps = optimize(
                policy,
                optimizer,
                batch,
                old_N,
                phase.signal,
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
                stopped = kl_stop is not None and record["kl_old_theta_on_old_batch"] >= kl_stop
                if step in keep or stopped:
                    self._keep(context, build.id, step, policy)
                if step % context.runtime.checkpoint_every == 0 and step < total:
                    _checkpoint(build, policy, optimizer, step, records)
                context.progress(step, total, loss=round(record["loss"], 4), entropy=round(record["entropy"], 3))
                if stopped:
                    break
            offset += phase.steps
        build.put(RECORDS, lambda path: path.write_text(_lines(records)))
        build.drop(RESUME)
        last = int(records[-1]["step"])
        kept = [step for step in keep if step < last] + [last]
        return TrainingRef(id=build.id, trail=tuple(self._policy_ref(build.id, step) for step in kept))

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

    def question(self) -> dict[str, Any]:
        return {"config": self.config.model_dump(mode="json"), "role": self.role, "trail": self.config.trail, "seed": self.seed}

    def inputs(self) -> dict[str, str]:
        return {"init": self.init.id, "rollouts": self.rollouts.id, "old": self.old.id}

    def run(self, context: Context, build: Build) -> TrainingRef:
        batch = load_batch(shards(context.store, self.rollouts))
        advantage_N = group_normalised(batch.reward_S, batch.group_S)[batch.seq_N]
        phase = Phase(self.config.loss, FixedSignal(advantage_N), self.config.steps)
        return self._train(context, build, batch, [phase], self.config.optimizer, self.config.minibatch, self.config.trail)


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


class DistillStudent(_Training):
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

    def run(self, context: Context, build: Build) -> TrainingRef:
        batch = load_batch(shards(context.store, self.rollouts))
        positive_N = batch.reward_S[batch.seq_N] > 0.5
        phases = [Phase(self.loss, self._signal(context.store, phase, positive_N), phase.steps) for phase in self.phases]
        return self._train(context, build, batch, phases, self.optimizer, self.minibatch, self.trail, self.kl_stop)

    def _signal(self, store: Store, phase: SignalPhase, positive_N: Tensor) -> Signal:
        first = phase.signals[0]
        if first.spec.denominator == "live":
            assert first.numerator is not None, "the config checks that a live denominator has a policy as numerator"
            return LiveSignal(first.spec, load_column(store, first.numerator), load_column(store, self.old), positive_N)
        built = [
            (one.weight, build_signal(one.spec, _column(store, one.numerator), _column(store, one.denominator), positive_N))
            for one in phase.signals
        ]
        return FixedSignal(built[0][1] if len(built) == 1 else weighted_sum(built, first.spec.whiten))


def _arithmetic(signal: SidedSignal) -> dict[str, Any]:
    live = {"denominator": "live"} if signal.spec.denominator == "live" else {}
    weight = {} if signal.weight == 1.0 else {"weight": signal.weight}
    return signal.spec.model_dump(mode="json", exclude={"numerator", "denominator"}) | live | weight


def _column(store: Store, ref: LogprobRef | None) -> Tensor | None:
    return None if ref is None else load_column(store, ref)


def load_records(store: Store, ref: TrainingRef) -> list[Record]:
    """The record of every optimizer step, in order."""
    return _read(store.path(ref.id) / RECORDS)


def _read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _lines(records: Sequence[Record]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def _checkpoint(build: Build, policy: HFPolicy, optimizer: torch.optim.Optimizer, step: int, records: Sequence[Record]) -> None:
    """Weights, optimizer moments, step and records in ONE file, so that they can never disagree. Data order follows from the step."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in policy.model.named_parameters():
        tensors[f"weight/{name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = value
    metadata = {"step": str(step), "records": _lines(records)}
    build.put(RESUME, partial(save_file, tensors, metadata=metadata))


def _resume(build: Build, policy: HFPolicy, optimizer: torch.optim.Optimizer) -> tuple[int, list[Record]]:
    """Steps done and their records; 0 and none without a whole checkpoint."""
    if not build.done(RESUME):
        return 0, []
    from safetensors import safe_open

    path = build.folder / RESUME
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    policy.copy_from({name.removeprefix("weight/"): value for name, value in tensors.items() if name.startswith("weight/")})
    for name, parameter in policy.model.named_parameters():
        optimizer.state[parameter] = {key: tensors[f"{key}/{name}"].to(parameter.device) for key in ("step", "exp_avg", "exp_avg_sq")}
    return int(metadata["step"]), [json.loads(line) for line in metadata["records"].splitlines()]
