"""Config of on-policy training: fresh samples at each step (Fig. 8, Tables 3 and 4)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveInt, model_validator

from erpd_core.config.losses import GRPO, TeacherLoss
from erpd_core.config.optimizer import OptimizerConfig
from erpd_core.config.sampling import SamplingConfig
from erpd_core.config.trail import TrailConfig


class OnlineConfig(TrailConfig):
    """An online stage, fully on-policy (Sec. 4.1).

    The paper samples at temperature 0.6 to 1.0; everything else is as offline.
    """

    loss: TeacherLoss = Field(default_factory=GRPO)
    """The loss of the policy."""
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    """Optimizer of the policy."""
    steps: PositiveInt = 50
    """Number of fresh batches; with `updates_per_batch` 1 also of optimizer steps (Table 3: up to
    50 from the base, 60 from a student).
    """
    prompts_per_step: PositiveInt = 64
    """Prompts that are sampled at each step. The paper gives no number for online training; 64 is
    Sec. 4.1's minibatch, read as prompts, as its epochs imply.
    """
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    """Sampling of the fresh batches."""
    updates_per_batch: PositiveInt = 1
    """Optimizer steps on each fresh batch, each on a part of its trajectories. 1 is strictly
    on-policy, as in the paper.
    """

    @model_validator(mode="after")
    def _a_trajectory_for_each_update(self) -> Self:
        trajectories = self.prompts_per_step * self.sampling.samples
        if self.updates_per_batch > trajectories:
            raise ValueError(
                f"updates_per_batch {self.updates_per_batch} exceeds the {trajectories} "
                f"trajectories of a step; lower it"
            )
        return self
