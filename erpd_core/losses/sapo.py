"""SAPO: soft clipping by a sigmoid of the ratio (Gao et al. 2025; paper Sec. 4.1).

The aggregation is a sequence mean of token means. At ratio 1 the gradient is REINFORCE's:
d/dlp [sigma(tau (r - 1)) 4 / tau] = 4 sigma' r = 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erpd_core.config import SAPO
from erpd_core.losses.inputs import LossInputs, Metrics


def sapo(config: SAPO, x: LossInputs) -> tuple[Tensor, Metrics]:
    """Per token `-A sigma(tau (r - 1)) 4 / tau`; tau_pos where A > 0, tau_neg elsewhere."""
    ratio_N = torch.exp(x.lp_N - x.old_N)
    tau_N = torch.where(x.signal_N > 0, config.tau_pos, config.tau_neg)
    gate_N = torch.sigmoid(tau_N * (ratio_N - 1))
    loss = x.sequence_mean_of_token_means(-x.signal_N * gate_N * 4 / tau_N)
    return loss, {"gate_weight": (4 * gate_N * (1 - gate_N)).detach()}
