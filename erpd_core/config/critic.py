"""The value network that PPO's advantages rest on."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from erpd_core.config.optimizer import OptimizerConfig
from erpd_core.config.trail import TrailConfig


class CriticConfig(TrailConfig):
    """Value pretraining on the fixed batch (VC-PPO, arXiv 2503.01491): lambda 1, so the target of
    every token is the outcome.

    ERPD gives no numbers for it. The learning rate is the field's usual one of a critic, ten times
    a policy's; steps and minibatch are ours. Whether they are enough is told by the explained
    variance in the records.
    """

    optimizer: OptimizerConfig = Field(default_factory=lambda: OptimizerConfig(lr=1e-5))
    minibatch: PositiveInt = 64
    """Trajectories per optimizer step."""
    steps: PositiveInt = 80
    """The values used are the last step's."""
