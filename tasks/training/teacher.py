"""The stage that trains an extreme teacher (stage 1 of the method)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import model_validator

from erpd_core.advantages import gae, group_normalized, length_adaptive_lambda, whitened
from erpd_core.batch import TokenBatch
from erpd_core.columns import Column
from erpd_core.config import PPO, TrainConfig, WeakTeacherConfig
from erpd_core.refs import ValuesRef
from erpd_core.schedule import Phase
from erpd_core.signals import FixedSignal
from tasks.execution.stage import Context, Verb
from tasks.rollouts import load_batch, shards
from tasks.rollouts.score import load_column
from tasks.store import Store
from tasks.training.base import skipping
from tasks.training.batch_check import check_learning_signal
from tasks.training.off_policy import OffPolicyTraining, TrainingPhase, TrainingPlan


class TrainTeacher(OffPolicyTraining):
    """Train an extreme policy, and keep policies on the way to it (Sec. 3.1, 3.4)."""

    VERB: ClassVar[Verb] = "train"
    PHASE: ClassVar[Phase | None] = "teacher"

    config: TrainConfig | WeakTeacherConfig
    values: ValuesRef | None = None
    """A critic's values of the batch (`tasks.training.critic.TrainCritic`); for PPO only."""

    @model_validator(mode="after")
    def _values_are_for_ppo(self) -> TrainTeacher:
        if isinstance(self.config.loss, PPO) != (self.values is not None):
            raise ValueError(
                f"loss {self.config.loss.kind}: PPO needs the values of a critic, and no other "
                f"loss may have them"
            )
        if self.values is not None and self.values.rollouts != self.rollouts.id:
            raise ValueError(
                f"the values are of {self.values.rollouts}, the batch is {self.rollouts.id}; take "
                f"the values of this batch"
            )
        return self

    @property
    def trail(self) -> tuple[int, ...]:
        return self.config.trail

    def spec(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(mode="json"),
            "role": self.role,
            "trail": self.trail,
            "seed": self.seed,
            **skipping(self.config.loss),
        }

    def inputs(self) -> dict[str, str]:
        inputs = {"init": self.init.id, "rollouts": self.rollouts.id, "old": self.old.id}
        return inputs if self.values is None else {**inputs, "values": self.values.id}

    def plan(self, context: Context) -> TrainingPlan:
        check_learning_signal(context.store, self.rollouts, self.config.loss)
        batch = load_batch(shards(context.store, self.rollouts))
        advantages = FixedSignal(self._advantages(context.store, batch))
        return TrainingPlan(
            batch=batch,
            phases=[TrainingPhase(self.config.loss, advantages, self.config.steps)],
            optimizer=self.config.optimizer,
            minibatch=self.config.minibatch,
            keep=self.trail,
        )

    def _advantages(self, store: Store, batch: TokenBatch) -> Column:
        """The advantage of every token, [N], fixed for the whole training.

        It is the group-normalized advantage of the token's trajectory. For PPO it is computed for
        each token from the critic's values.
        """
        loss = self.config.loss
        if self.values is None or not isinstance(loss, PPO):
            return batch.per_token(group_normalized(batch.reward_S, batch.group_S))
        value_N = load_column(store, self.values, "value")
        return whitened(
            gae(
                batch.reward_S,
                value_N,
                batch.length_S,
                length_adaptive_lambda(batch.length_S, loss.alpha),
            )
        )
