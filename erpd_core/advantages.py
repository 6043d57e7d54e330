"""Advantages from rewards: per trajectory within its group, or per token with a value network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from erpd_core.faults import Fault


def group_normalized(reward_S: Tensor, group_S: Tensor, eps: float = 1e-4) -> Tensor:
    """GRPO's advantage: (R - group mean) / (group std + eps) (DeepSeekMath, Eq. 4).

    The standard deviation is the sample one (n - 1), as in TRL.

    **Returns:** advantage_S, float32. It is exactly 0 in a group of one or of equal rewards, which
        carries no learning signal.
    """
    groups = int(group_S.max()) + 1
    count_G = torch.zeros(groups).index_add_(0, group_S, torch.ones_like(reward_S))
    mean_G = torch.zeros(groups).index_add_(0, group_S, reward_S) / count_G.clamp(min=1)
    centred_S = reward_S - mean_G[group_S]
    var_G = torch.zeros(groups).index_add_(0, group_S, centred_S**2) / (count_G - 1).clamp(min=1)
    return centred_S / (var_G.sqrt()[group_S] + eps)


def length_adaptive_lambda(length_S: Tensor, alpha: float = 0.05) -> Tensor:
    """VAPO's GAE lambda of the policy: `1 - 1 / (alpha * length)` in [0, 1] (arXiv 2504.05118).

    Credit then reaches over a share alpha of a response. ERPD prints the formula without the
    "1 -". That value exceeds 1 for responses under 1 / alpha tokens and nears 0 for long ones, so
    this function follows VAPO. Responses of up to 1 / alpha tokens (20 by default) get 0.

    **Returns:** lambda_S, float64.
    """
    return (1 - 1 / (alpha * length_S.double())).clamp(0.0, 1.0)


def gae(reward_S: Tensor, value_N: Tensor, length_S: Tensor, lambda_S: Tensor) -> Tensor:
    """Generalized advantage estimation (Schulman et al. 2016) with gamma 1.

    The only reward is the outcome R, at a response's last token:
    `A_t = sum_k lambda^k delta_{t+k}` with `delta_t = V_{t+1} - V_t`, and `R - V_t` at the last
    token. Lambda 1 gives `R - V_t`; lambda 0 gives `delta_t`.

    **Arguments:**
        reward_S: Outcome R of each response.
        value_N: V of the state in which each response token was chosen, before that token.
        length_S: Tokens of each response.
        lambda_S: One lambda per response.
    **Returns:** advantage_N, float32 (computed in float64).
    **Raises:** ValueError if `value_N` does not hold one value for each token of `length_S`.
    """
    if int(length_S.sum()) != len(value_N):
        raise ValueError(
            f"{len(value_N)} values for responses of {int(length_S.sum())} tokens; pass the "
            f"values of this batch"
        )
    last_S = length_S.cumsum(0) - 1
    next_N = value_N.double().roll(-1)
    next_N[last_S] = reward_S.double()
    advantage_N = next_N - value_N.double()
    active = torch.arange(len(length_S))
    for back in range(1, int(length_S.max())):
        active = active[length_S[active] > back]
        at = last_S[active] - back
        advantage_N[at] += lambda_S[active].double() * advantage_N[at + 1]
    return advantage_N.float()


def whitened(advantage_N: Tensor, eps: float = 1e-8) -> Tensor:
    """PPO's usual whitening over all response tokens of the batch: (A - mean) / (std + eps).

    **Returns:** advantage_N, float32.
    **Raises:** Fault if all advantages are equal or one is not finite: no learning signal is left.
    """
    centred_N = advantage_N.double() - advantage_N.double().mean()
    std = centred_N.square().mean().sqrt().item()
    if not 1e-12 < std < math.inf:
        raise Fault(
            "the advantage is the same on every token, or not finite, so there is nothing to learn",
            "look at the critic and at the outcomes",
        )
    return (centred_N / (std + eps)).float()
