"""VESPO: REINFORCE weighted by a smooth kernel of the whole response's ratio (arXiv 2602.10693).

The kernel is `phi(w) = w^k exp(lambda (1 - w))`, with w the product of the response's token ratios,
not normalized by length. phi(1) = 1, and phi fades on both sides. The aggregation (token mean over
the minibatch) and the range of log w are those of the authors' code and of TRL.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from erpd_core.config import VESPO
from erpd_core.losses.inputs import LossInputs, Metrics

LOG_WEIGHT = (math.log(1e-8), 20.0)
"""Range to which log w is clamped. Beyond it phi is below 1e-14 at the default k and lambda."""


def vespo(config: VESPO, x: LossInputs) -> tuple[Tensor, Metrics]:
    """Per token `-sg(phi(w)) A lp`, with sg stop-gradient.

    phi has k_pos and lambda_pos where A >= 0, k_neg and lambda_neg elsewhere.
    """
    log_ratio_N = (x.lp_N - x.old_N).detach()
    log_weight_N = x.per_sequence(log_ratio_N).clamp(*LOG_WEIGHT)[x.seq_N]
    positive_N = x.signal_N >= 0
    k_N = torch.where(positive_N, config.k_pos, config.k_neg)
    lambda_N = torch.where(positive_N, config.lambda_pos, config.lambda_neg)
    phi_N = torch.exp(k_N * log_weight_N + lambda_N * (1 - log_weight_N.exp()))
    return x.token_mean(-phi_N * x.signal_N * x.lp_N), {"sequence_weight": phi_N}
