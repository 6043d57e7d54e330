"""Config of the value network behind PPO's advantages."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from erpd_core.config.optimizer import OptimizerConfig
from erpd_core.config.trail import TrailConfig


class CriticConfig(TrailConfig):
    """Value pretraining on the fixed batch (VC-PPO, arXiv 2503.01491).

    Lambda is 1, so the target of every token is the outcome. ERPD gives no numbers. The learning
    rate is usual for critics, ten times that of a policy; steps and minibatch are ours. The
    explained variance in the records shows whether they are enough.
    """

    optimizer: OptimizerConfig = Field(default_factory=lambda: OptimizerConfig(lr=1e-5))
    """Optimizer of the critic."""
    minibatch: PositiveInt = 64
    """Trajectories per optimizer step."""
    steps: PositiveInt = 80
    """Number of optimizer steps. The values of the last step are used."""
