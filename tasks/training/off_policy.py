"""Training on a fixed batch: stage 1 teachers and stage 2 students are the same loop with other
losses and signals.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

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
from tasks.training.checkpoint import resume
from tasks.training.stage import Training


@dataclass(frozen=True)
class Phase:
    """A stretch of steps on one loss and one signal."""

    loss: Loss
    signal: Signal
    steps: int


class OffPolicyTraining(Training):
    """A training on one fixed batch, by the stage's own process or by several workers
    (`tasks.training`).
    """

    rollouts: RolloutRef
    old: LogprobRef

    def runs_on_actors(self, runtime: RuntimeConfig) -> bool:
        return runtime.trains_apart

    def compute(self, context: Context, build: Build) -> TrainingRef:
        if not context.runtime.trains_apart:
            return self.train(context, build, SINGLE)
        from tasks.training.fsdp_gang import train_together

        return train_together(self, context, build)

    def train(self, context: Context, build: Build, workers: WorkerGroup) -> TrainingRef:
        """Take every step. Each member of the workers makes this call, and gets the answer that the
        first has written.

        Raises Fault, in each of them, when the numbers do not let it go on (docs/faults.md).
        """
        with placed(f"{self.role} training"):
            return self._learn(context, build, workers)

    @abstractmethod
    def _learn(self, context: Context, build: Build, workers: WorkerGroup) -> TrainingRef: ...

    def _policy(self, context: Context, workers: WorkerGroup) -> HFPolicy:
        folder = context.store.path(self.init.id)
        if workers.size > 1:
            # here, so that training alone imports no FSDP
            from tasks.training.fsdp_policy import ShardedPolicy

            return ShardedPolicy(folder, context.runtime, workers)
        policy = load_policy(folder, context.runtime)
        if context.runtime.recompute:
            policy.recompute()
        return policy

    def _train(
        self,
        context: Context,
        build: Build,
        workers: WorkerGroup,
        batch: TokenBatch,
        phases: Sequence[Phase],
        optimizer_config: OptimizerConfig,
        minibatch: int,
        keep: Sequence[int],
        kl_stop: float | None = None,
        kl_bound: float = math.inf,
    ) -> TrainingRef:
        policy = self._policy(context, workers)
        optimizer = make_optimizer(policy, optimizer_config)
        done, records = resume(build, policy, optimizer, workers)
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
                workers=workers,
            )

        for record in _in_order(phases, steps_of):
            step, kl = int(record["step"]), record["kl_old_theta_on_old_batch"]
            records.append(record)
            stopped = kl_stop is not None and kl >= kl_stop
            if stopped:
                keep = [*(kept for kept in keep if kept < step), step]
            else:
                require_bounded_kl(record, kl_bound, step)
            self.after_step(context, build, policy, optimizer, records, keep, workers)
            if workers.first:
                context.progress(
                    step, total, loss=round(record["loss"], 4), entropy=round(record["entropy"], 3)
                )
            if stopped:
                break
        return self.finish(build, records, keep, workers)


def _in_order(
    phases: Sequence[Phase], steps_of: Callable[[int, Phase, int], Iterator[Record]]
) -> Iterator[Record]:
    """The records of one phase after the other, their steps counted through."""
    before = 0
    for number, phase in enumerate(phases):
        with placed(f"phase {number + 1}") if len(phases) > 1 else nullcontext():
            for record in steps_of(number, phase, before):
                yield {**record, "step": int(record["step"]) + before}
        before += phase.steps
