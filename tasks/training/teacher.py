"""Stage 1: the extreme teacher."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import model_validator

from erpd_core.advantages import gae, group_normalised, length_adaptive_lambda, whitened
from erpd_core.batch import TokenBatch
from erpd_core.columns import Column
from erpd_core.config import PPO, TrainConfig, WeakTeacherConfig
from erpd_core.parallel import WorkerGroup
from erpd_core.refs import TrainingRef, ValuesRef
from erpd_core.signals import FixedSignal
from tasks.execution.stage import Context, Verb
from tasks.rollouts import load_batch, shards
from tasks.rollouts.score import load_column
from tasks.store import Build, Store
from tasks.training.batch_check import check_learning_signal
from tasks.training.off_policy import OffPolicyTraining, Phase


class TrainTeacher(OffPolicyTraining):
    """Stage 1: an extreme policy, and the trail to it (Sec. 3.1, 3.4)."""

    VERB: ClassVar[Verb] = "train"
    PHASE: ClassVar[str | None] = "teacher"

    config: TrainConfig | WeakTeacherConfig
    values: ValuesRef | None = None
    """What a critic says of the batch (`tasks.training.critic.TrainCritic`); PPO needs it, no
    other loss has a use for it.
    """

    @model_validator(mode="after")
    def _values_are_for_ppo(self) -> TrainTeacher:
        if isinstance(self.config.loss, PPO) != (self.values is not None):
            raise ValueError(
                f"loss {self.config.loss.kind}: the values of a critic go with PPO and with "
                f"nothing else"
            )
        if self.values is not None and self.values.rollouts != self.rollouts.id:
            raise ValueError(
                f"the values are of {self.values.rollouts}, the batch is {self.rollouts.id}; take "
                f"the values of this batch"
            )
        return self

    def spec(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(mode="json"),
            "role": self.role,
            "trail": self.config.trail,
            "seed": self.seed,
        }

    def inputs(self) -> dict[str, str]:
        inputs = {"init": self.init.id, "rollouts": self.rollouts.id, "old": self.old.id}
        return inputs if self.values is None else {**inputs, "values": self.values.id}

    def _learn(self, context: Context, build: Build, workers: WorkerGroup) -> TrainingRef:
        check_learning_signal(context.store, self.rollouts, self.config.loss)
        batch = load_batch(shards(context.store, self.rollouts))
        phase = Phase(
            self.config.loss, FixedSignal(self._advantages(context.store, batch)), self.config.steps
        )
        return self._train(
            context,
            build,
            workers,
            batch,
            [phase],
            self.config.optimizer,
            self.config.minibatch,
            self.config.trail,
        )

    def _advantages(self, store: Store, batch: TokenBatch) -> Column:
        """A token's advantage, fixed for the whole training: its trajectory's among its group,
        or for PPO its own, by the critic.
        """
        loss = self.config.loss
        if self.values is None or not isinstance(loss, PPO):
            return batch.per_token(group_normalised(batch.reward_S, batch.group_S))
        value_N = load_column(store, self.values, "value")
        return whitened(
            gae(
                batch.reward_S,
                value_N,
                batch.length_S,
                length_adaptive_lambda(batch.length_S, loss.alpha),
            )
        )
