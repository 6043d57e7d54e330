"""GRPO: hard clipping (DeepSeekMath Eq. 3; paper Sec. 4.1). Sequence mean of token means.

The clip is asymmetric, as in DAPO.
"""

from __future__ import annotations

from torch import Tensor

from erpd_core.config import GRPO
from erpd_core.losses.clipped import clipped_surrogate
from erpd_core.losses.inputs import LossInputs, Metrics


def grpo(config: GRPO, x: LossInputs) -> tuple[Tensor, Metrics]:
    """Clipped surrogate; `signal_N` is the group-normalized advantage of the token's trajectory."""
    loss_N, metrics = clipped_surrogate(x, config.clip_low, config.clip_high)
    return x.sequence_mean_of_token_means(loss_N), metrics
