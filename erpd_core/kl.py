"""Per-token estimators of KL(sampler || other) from tokens that the SAMPLER drew, in nats.

With `log_ratio = lp_sampler - lp_other` at a drawn token:

- k1 = log_ratio: unbiased, can be negative.
- k2 = log_ratio^2 / 2: biased, never negative.
- k3 = exp(-log_ratio) - 1 + log_ratio: unbiased, never negative.

Every table of the paper reports k1 of KL(theta || ref) on fresh samples of theta (Sec. 4.1).
"""

from __future__ import annotations

import torch
from torch import Tensor


def k1(lp_sampler_N: Tensor, lp_other_N: Tensor) -> Tensor:
    """k1 of KL(sampler || other), [N]: the log-ratio. Unbiased; the paper's choice."""
    return lp_sampler_N - lp_other_N


def k2(lp_sampler_N: Tensor, lp_other_N: Tensor) -> Tensor:
    """k2 of KL(sampler || other), [N]: half the squared log-ratio. Biased, never negative.

    As a loss of the sampler on its own samples, its expected gradient is that of the reverse KL,
    KL(sampler || other). The value is the same with the arguments exchanged.
    """
    return (lp_sampler_N - lp_other_N) ** 2 / 2


def k3(lp_sampler_N: Tensor, lp_other_N: Tensor) -> Tensor:
    """k3 of KL(sampler || other), [N]: exp(-log_ratio) - 1 + log_ratio. Unbiased, never negative.

    As a loss its gradient is biased.
    """
    log_ratio_N = lp_sampler_N - lp_other_N
    return torch.expm1(-log_ratio_N) + log_ratio_N
