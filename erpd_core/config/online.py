"""On-policy training: fresh samples each step (Fig. 8, Tables 3 and 4)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveInt, model_validator

from erpd_core.config.losses import GRPO, TeacherLoss
from erpd_core.config.optimizer import OptimizerConfig
from erpd_core.config.sampling import SamplingConfig
from erpd_core.config.trail import TrailConfig


class OnlineConfig(TrailConfig):
    """An online stage (Sec. 4.1: fully on-policy, temperature 0.6 to 1.0, everything else as
    offline).
    """

    loss: TeacherLoss = Field(default_factory=GRPO)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    steps: PositiveInt = 50
    """Fresh batches; optimizer steps as well when `updates_per_batch` is 1 (Table 3: up to 50
    from the base, 60 from a student).
    """
    prompts_per_step: PositiveInt = 64
    """Prompts sampled for each step (not given for online; Sec. 4.1's minibatch of 64, read as
    prompts, as its epochs imply).
    """
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    updates_per_batch: PositiveInt = 1
    """Optimizer steps on each fresh batch, a part of its trajectories each; 1 is strictly
    on-policy (the paper's).
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
