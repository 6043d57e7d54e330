"""PPO: clipped surrogate on advantages of a value network (paper Eq. 5, Sec. 4.1). Token mean.

The method is by Schulman et al. 2017. The token mean over the minibatch follows PPO's expectation
over steps, and VAPO, whose lambda is used here.
"""

from __future__ import annotations

from torch import Tensor

from erpd_core.config import PPO
from erpd_core.losses.clipped import clipped_surrogate
from erpd_core.losses.inputs import LossInputs, Metrics


def ppo(config: PPO, x: LossInputs) -> tuple[Tensor, Metrics]:
    """Clipped surrogate; `signal_N` is the fixed, whitened GAE (`erpd_core.advantages.gae`)."""
    loss_N, metrics = clipped_surrogate(x, config.clip_low, config.clip_high)
    return x.token_mean(loss_N), metrics
