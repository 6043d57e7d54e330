"""CISPO: REINFORCE with a truncated importance weight (MiniMax-M1, arXiv 2506.13585). Token mean.

Where PPO's clip stops the gradient of a token, CISPO only bounds the weight: every token keeps a
gradient. The weight has a stopped gradient and no lower bound.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erpd_core.config import CISPO
from erpd_core.losses.inputs import LossInputs, Metrics


def cispo(config: CISPO, x: LossInputs) -> tuple[Tensor, Metrics]:
    """Per token `-sg(min(r, max_weight)) A lp`, with `r = exp(lp - old)` and sg stop-gradient."""
    ratio_N = torch.exp(x.lp_N - x.old_N).detach()
    loss = x.token_mean(-ratio_N.clamp(max=config.max_weight) * x.signal_N * x.lp_N)
    return loss, {"clip_fraction": (ratio_N > config.max_weight).float()}
