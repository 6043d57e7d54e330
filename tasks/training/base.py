"""Base of the training stages: kept policies, a record of every step, resuming after a kill."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from erpd_core.config import Loss
from erpd_core.finite import require_finite_weights
from erpd_core.parallel import SINGLE, WorkerGroup
from erpd_core.refs import PolicyRef, Role, TrainingRef, ValuesRef
from erpd_core.step_statistics import Record
from tasks.execution.stage import Context, Stage, Verb
from tasks.models.policy import HFPolicy, save_policy
from tasks.store import Build, Store
from tasks.training.checkpoint import checkpoint, forget, put_records, read_records


class Training(Stage[TrainingRef]):
    """A training run from `init` that keeps policies at some steps, its trail."""

    KIND: ClassVar[str] = "training"
    VERSION: ClassVar[int] = 2
    REF: ClassVar[type] = TrainingRef

    init: PolicyRef
    role: Role
    seed: int

    @property
    @abstractmethod
    def trail(self) -> tuple[int, ...]:
        """The steps whose policies are kept, ascending; the last one ends the run."""

    def kept_so_far(self, store: Store) -> list[PolicyRef]:
        """The kept policies that the store has already, while the training may still run."""
        kept = (self._policy_ref(self.identity(), step) for step in self.trail)
        return [policy for policy in kept if store.path(policy.id).exists()]

    def stored(self, store: Store) -> TrainingRef | None:
        """The result, if the store holds the training and all its kept policies undamaged.

        Otherwise the training is discarded and has to run again; undamaged policies stay.
        """
        ref = super().stored(store)
        if ref is not None and not all([store.has(policy.id) for policy in ref.trail]):
            store.discard(ref.id)
            return None
        return ref

    def after_step(
        self,
        context: Context,
        build: Build,
        policy: HFPolicy,
        optimizer: torch.optim.Optimizer,
        records: Sequence[Record],
        keep: Sequence[int],
        workers: WorkerGroup = SINGLE,
    ) -> None:
        """Keep the policy and write a checkpoint if the step of the last record requires it.

        **Arguments:**
            keep: Steps at which the policy is kept, ascending; the last one ends the run.
        **Raises:** Fault if the weights are not finite; nothing is written then.
        """
        step = int(records[-1]["step"])
        resumable = step % context.runtime.checkpoint_every == 0 and step < keep[-1]
        if resumable or step in keep:
            require_finite_weights(policy.named_parameters(), step, workers)
        if step in keep:
            complete = policy.whole()
            if complete is not None:  # only the first worker has it
                self._keep(context, build.id, step, complete)
        if resumable:
            checkpoint(build, policy, optimizer, step, records, workers)

    def finish(
        self,
        build: Build,
        records: Sequence[Record],
        keep: Sequence[int],
        workers: WorkerGroup = SINGLE,
    ) -> TrainingRef:
        """The result of the run, once all policies of `keep` are stored.

        Stores the records and removes the checkpoints.
        """
        if workers.first:
            put_records(build, records)
            forget(build)
        return TrainingRef(
            id=build.id, trail=tuple(self._policy_ref(build.id, step) for step in keep)
        )

    def _policy_ref(self, training: str, step: int) -> PolicyRef:
        return PolicyRef(
            id=KeptPolicy(training=training, step=step).identity(), role=self.role, step=step
        )

    def _keep(self, context: Context, training: str, step: int, policy: HFPolicy) -> None:
        kept = KeptPolicy(training=training, step=step)
        with context.store.build(kept.KIND, kept.spec(), kept.inputs(), kept.VERSION) as build:
            if build is None:
                return
            scratch = build.folder / ".scratch"
            save_policy(policy, scratch, like=context.store.path(self.init.id))
            for path in sorted(scratch.iterdir()):
                build.put(path.name, path.rename)
            scratch.rmdir()
            build.commit({"ref": self._policy_ref(training, step).model_dump(mode="json")})


class KeptPolicy(Stage[PolicyRef]):
    """A policy kept at a step of a training run; only that run computes it."""

    KIND: ClassVar[str] = "policy"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = PolicyRef
    VERB: ClassVar[Verb] = "train"

    training: str
    step: int

    def spec(self) -> dict[str, Any]:
        return {"step": self.step}

    def inputs(self) -> dict[str, str]:
        return {"training": self.training}

    def compute(self, context: Context, build: Build) -> PolicyRef:
        raise LookupError(
            f"step {self.step} of {self.training} is not in the store; run the training again"
        )


def skipping(loss: Loss) -> dict[str, Any]:
    """The part of a training's spec that says whether it skips responses without a signal.

    It is empty for losses that skip nothing, whose trainings keep the identity they had before.
    """
    return {"skips": "zero signal"} if loss.skips_zero_signal else {}


def load_records(store: Store, ref: TrainingRef | ValuesRef) -> list[Record]:
    """The record of every optimizer step, in order."""
    return read_records(store.path(ref.id))
