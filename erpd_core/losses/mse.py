"""MSE: squared error of token probabilities against R (paper Eq. 10, Table 9). Token mean."""

from __future__ import annotations

import torch
from torch import Tensor

from erpd_core.config import MSE
from erpd_core.losses.inputs import LossInputs, Metrics


def mse(config: MSE, x: LossInputs) -> tuple[Tensor, Metrics]:
    """`(pi_theta(a | s) - R)^2` per token, times `negative_weight` on tokens of wrong responses."""
    reward_N = x.reward_N
    error_N = (torch.exp(x.lp_N) - reward_N) ** 2
    weight_N = torch.where(reward_N > 0.5, 1.0, config.negative_weight)
    return x.token_mean(weight_N * error_N), {"squared_error": error_N.detach()}
