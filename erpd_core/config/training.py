"""Configs of stage 1: strong and unlearned teachers (Sec. 3.1, 3.4)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from erpd_core.config.losses import MSE, SAPO, TeacherLoss
from erpd_core.config.optimizer import OptimizerConfig
from erpd_core.config.trail import TrailConfig


class TrainConfig(TrailConfig):
    """Stage 1: many off-policy steps on one fixed batch, with kept checkpoints (Sec. 3.1)."""

    loss: TeacherLoss = Field(default_factory=SAPO)
    """The loss of the teacher."""
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    """Optimizer of the teacher."""
    minibatch: PositiveInt = 64
    """Trajectories per optimizer step (Sec. 4.1: 32, 64 or 256)."""
    steps: PositiveInt = 80
    """Number of optimizer steps."""


class WeakTeacherConfig(TrainConfig):
    """The unlearned run of strategy 2 (Sec. 3.4), with MSE as default loss.

    The paper's `un` is an early checkpoint of it (usually step 10 to 30).
    """

    loss: TeacherLoss = Field(default_factory=MSE)
    """The loss of the unlearned run."""
    unlearn_step: PositiveInt = 10
    """The step of the checkpoint `unlearned`; before the last step."""

    @model_validator(mode="after")
    def _unlearn_step_is_early(self) -> WeakTeacherConfig:
        if self.unlearn_step >= self.steps:
            raise ValueError(
                f"unlearn_step {self.unlearn_step} must come before the last step {self.steps}"
            )
        return self

    @property
    def trail(self) -> tuple[int, ...]:
        """All kept steps, ascending, with `unlearn_step` and the last step."""
        return tuple(sorted({*self.keep, self.unlearn_step, self.steps}))


class RunConfig(TrainConfig):
    """A further training run on the fixed batch, as a side of signals.

    For example `un` at another learning rate, or a recovered teacher (Table 9).
    """

    init: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(@\d+)?$")] = "old"
    """The policy it starts from: `old`, or a side such as `unlearned`, `weak@10` or the name of
    another run.
    """
