"""KL estimators, named by direction, form and who sampled.

From samples of p, with `log_ratio = log p - log q`: k1 = log_ratio (unbiased, can be negative), k2
= log_ratio^2 / 2 (biased, never negative), k3 = exp(-log_ratio) - 1 + log_ratio (unbiased, never
negative). All estimate KL(p || q), p being the SAMPLER. Every table of the paper reports k1 of
KL(theta || ref) on fresh samples of theta (Sec. 4.1).
"""

from __future__ import annotations

import torch
from torch import Tensor


def k1(lp_sampler_N: Tensor, lp_other_N: Tensor) -> Tensor:
    """Per token, KL(sampler || other): unbiased, the paper's choice."""
    return lp_sampler_N - lp_other_N


def k2(lp_sampler_N: Tensor, lp_other_N: Tensor) -> Tensor:
    """Per token, KL(sampler || other): half the squared log-ratio. As a loss on own samples its
    gradient is the reverse KL's.
    """
    return (lp_sampler_N - lp_other_N) ** 2 / 2


def k3(lp_sampler_N: Tensor, lp_other_N: Tensor) -> Tensor:
    """Per token, KL(sampler || other): unbiased and never negative; as a loss its gradient is
    biased.
    """
    log_ratio = lp_other_N - lp_sampler_N
    return torch.expm1(log_ratio) - log_ratio
