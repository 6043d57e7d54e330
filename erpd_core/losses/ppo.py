"""PPO: the clipped surrogate on advantages of a value network (Schulman et al. 2017; paper Eq. 5,
Sec. 4.1).

Token mean over the minibatch, as PPO's expectation over steps is written and VAPO, whose lambda we
follow, has it.
"""

from __future__ import annotations

from torch import Tensor

from erpd_core.config import PPO
from erpd_core.losses.clipped import clipped_surrogate
from erpd_core.losses.inputs import LossInputs, Metrics


def ppo(config: PPO, x: LossInputs) -> tuple[Tensor, Metrics]:
    """`signal_N` is the whitened GAE of each token (`erpd_core.advantages.gae`), held fixed."""
    loss_N, metrics = clipped_surrogate(x, config.clip_low, config.clip_high)
    return x.token_mean(loss_N), metrics
