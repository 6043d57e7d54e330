"""Stage 1: teachers, strong and unlearned (Sec. 3.1, 3.4)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from erpd_core.config.losses import MSE, SAPO, TeacherLoss
from erpd_core.config.optimizer import OptimizerConfig
from erpd_core.config.trail import TrailConfig


class TrainConfig(TrailConfig):
    """Stage 1: many off-policy steps on one fixed batch, keeping a trail of checkpoints (Sec.
    3.1).
    """

    loss: TeacherLoss = Field(default_factory=SAPO)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    minibatch: PositiveInt = 64
    """Trajectories per optimizer step (Sec. 4.1: 32, 64 or 256)."""
    steps: PositiveInt = 80


class WeakTeacherConfig(TrainConfig):
    """The unlearned run of strategy 2 (Sec. 3.4): MSE by default; `un` is an early checkpoint of
    it (usually steps 10 to 30).
    """

    loss: TeacherLoss = Field(default_factory=MSE)
    unlearn_step: PositiveInt = 10

    @model_validator(mode="after")
    def _unlearn_step_is_early(self) -> WeakTeacherConfig:
        if self.unlearn_step >= self.steps:
            raise ValueError(
                f"unlearn_step {self.unlearn_step} must come before the last step {self.steps}"
            )
        return self

    @property
    def trail(self) -> tuple[int, ...]:
        return tuple(sorted({*self.keep, self.unlearn_step, self.steps}))


class RunConfig(TrainConfig):
    """One more training run on the fixed batch, for signals to name: `un` at another rate, a
    recovered teacher (Table 9).
    """

    init: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(@\d+)?$")] = "old"
    """Where it starts: `old`, or a side such as `unlearned`, `weak@10` or another run's name."""
