"""DISPO: REINFORCE with an importance weight clipped by outcome (arXiv 2602.00983). Token mean.

The weight has a stopped gradient and one pair of bounds for right, another for wrong responses.
Right and wrong are the verified outcome R, not the sign of the signal. The token mean over the
minibatch follows the objective as it is written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erpd_core.config import DISPO
from erpd_core.losses.inputs import LossInputs, Metrics


def dispo(config: DISPO, x: LossInputs) -> tuple[Tensor, Metrics]:
    """Per token `-sg(clip(r, 1 - low, 1 + high)) A lp`, with `r = exp(lp - old)`.

    `low` and `high` depend on the outcome of the token's response.
    """
    ratio_N = torch.exp(x.lp_N - x.old_N).detach()
    right_N = ratio_N.clamp(1 - config.right_low, 1 + config.right_high)
    wrong_N = ratio_N.clamp(1 - config.wrong_low, 1 + config.wrong_high)
    weight_N = torch.where(x.reward_N > 0.5, right_N, wrong_N)
    return x.token_mean(-weight_N * x.signal_N * x.lp_N), {
        "clip_fraction": (weight_N != ratio_N).float()
    }
