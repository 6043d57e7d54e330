"""The value network that PPO's advantages rest on."""

from __future__ import annotations

from pydantic import Field, PositiveInt, field_validator, model_validator

from erpd_core.config.common import Config
from erpd_core.config.optimizer import OptimizerConfig


class CriticConfig(Config):
    """Value pretraining on the fixed batch (VC-PPO, arXiv 2503.01491): lambda 1, so the target of every token is the outcome.

    ERPD gives no numbers for it. The learning rate is the field's usual one of a critic, ten times a policy's; steps and minibatch are
    ours. Whether they are enough is told by the explained variance in the records.
    """

    optimizer: OptimizerConfig = Field(default_factory=lambda: OptimizerConfig(lr=1e-5))
    minibatch: PositiveInt = 64
    """Trajectories per optimizer step."""
    steps: PositiveInt = 80
    keep: tuple[PositiveInt, ...] = ()
    """Steps whose critic is kept, besides the last one, whose values are used."""

    @field_validator("keep")
    @classmethod
    def _sorted(cls, keep: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(keep)))

    @model_validator(mode="after")
    def _keep_within_steps(self) -> CriticConfig:
        if self.keep and self.keep[-1] > self.steps:
            raise ValueError(f"keep: step {self.keep[-1]} lies beyond the critic's last step {self.steps}; lower it or raise steps")
        return self

    @property
    def trail(self) -> tuple[int, ...]:
        """Every kept step, ascending; the last is always kept."""
        return tuple(sorted({*self.keep, self.steps}))
