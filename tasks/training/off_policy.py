"""Training on a fixed batch: the base of teachers (stage 1) and students (stage 2).

They run the same loop with different losses and signals.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from erpd_core.batch import TokenBatch
from erpd_core.config import Loss, OptimizerConfig, RuntimeConfig
from erpd_core.faults import placed
from erpd_core.finite import require_bounded_kl
from erpd_core.optimize import make_optimizer, optimize
from erpd_core.parallel import SINGLE, WorkerGroup
from erpd_core.refs import LogprobRef, RolloutRef, TrainingRef
from erpd_core.signals import Signal
from erpd_core.step_statistics import Record
from tasks.execution.stage import Context
from tasks.models.policy import HFPolicy, load_policy
from tasks.rollouts.score import open_column
from tasks.store import Build
from tasks.training.base import Training
from tasks.training.checkpoint import resume


@dataclass(frozen=True)
class TrainingPhase:
    """Optimizer steps with one loss and one signal."""

    loss: Loss
    signal: Signal
    steps: int


@dataclass(frozen=True)
class TrainingPlan:
    """The batch of a training, and everything that its loop needs to know."""

    batch: TokenBatch
    phases: Sequence[TrainingPhase]
    optimizer: OptimizerConfig
    minibatch: int
    """Responses of a step."""
    keep: Sequence[int]
    """Steps at which the policy is kept, ascending; the last one is the last of all phases."""
    kl_stop: float | None = None
    """KL(old || policy) that ends the training: k3 on the step's minibatch, in nats per token."""
    kl_bound: float = math.inf
    """Largest allowed KL(old || policy): k1 on the step's minibatch, in nats per token."""


class OffPolicyTraining(Training):
    """A training on one fixed batch, by the stage's own process or by several workers."""

    rollouts: RolloutRef
    old: LogprobRef

    def runs_on_actors(self, runtime: RuntimeConfig) -> bool:
        return runtime.trains_on_actors

    @abstractmethod
    def plan(self, context: Context) -> TrainingPlan:
        """Load the batch and build the signals.

        **Raises:** Fault if the batch carries no learning signal.
        """

    def compute(self, context: Context, build: Build) -> TrainingRef:
        if not context.runtime.trains_on_actors:
            return self.train(context, build, SINGLE)
        from tasks.training.fsdp_gang import train_together

        return train_together(self, context, build)

    def train(self, context: Context, build: Build, workers: WorkerGroup) -> TrainingRef:
        """Take all steps. Every worker makes this call.

        **Returns:** The result that the first worker has written, the same for every worker.
        **Raises:** Fault, in every worker, if the numbers end the training (docs/faults.md).
        """
        with placed(f"{self.role} training"):
            plan = self.plan(context)
            keep, total = plan.keep, sum(phase.steps for phase in plan.phases)
            policy = self._policy(context, workers)
            optimizer = make_optimizer(policy, plan.optimizer)
            done, records = resume(build, policy, optimizer, workers)
            take_steps = partial(
                optimize,
                policy,
                optimizer,
                plan.batch,
                open_column(context.store, self.old),
                minibatch=plan.minibatch,
                max_grad_norm=plan.optimizer.max_grad_norm,
                token_budget=context.runtime.token_budget,
                workers=workers,
            )
            for record in _through_phases(plan.phases, take_steps, self.seed, done):
                step, kl = int(record["step"]), record["kl_old_theta_on_old_batch"]
                records.append(record)
                stopped = plan.kl_stop is not None and kl >= plan.kl_stop
                if stopped:
                    keep = [*(kept for kept in keep if kept < step), step]
                else:
                    require_bounded_kl(record, plan.kl_bound, step)
                self.after_step(context, build, policy, optimizer, records, keep, workers)
                if workers.first:
                    context.progress(
                        step,
                        total,
                        loss=round(record["loss"], 4),
                        entropy=round(record["entropy"], 3),
                    )
                if stopped:
                    break
            return self.finish(build, records, keep, workers)

    def _policy(self, context: Context, workers: WorkerGroup) -> HFPolicy:
        folder = context.store.path(self.init.id)
        if workers.size > 1:
            # imported here, so that training in one process does not import FSDP
            from tasks.training.fsdp_policy import ShardedPolicy

            return ShardedPolicy(folder, context.runtime, workers)
        policy = load_policy(folder, context.runtime)
        if context.runtime.recompute:
            policy.recompute()
        return policy


def _through_phases(
    phases: Sequence[TrainingPhase],
    take_steps: Callable[..., Iterator[Record]],
    seed: int,
    done: int,
) -> Iterator[Record]:
    """The records of all phases in order, from step `done + 1` on.

    Steps are numbered through all phases. Each phase has its own seed.
    """
    before = 0
    for number, phase in enumerate(phases):
        with placed(f"phase {number + 1}") if len(phases) > 1 else nullcontext():
            for record in take_steps(
                phase.signal,
                phase.loss,
                steps=phase.steps,
                start=min(max(done - before, 0), phase.steps),
                seed=seed + number,
            ):
                yield {**record, "step": int(record["step"]) + before}
        before += phase.steps
