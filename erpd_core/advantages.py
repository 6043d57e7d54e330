"""Trajectory rewards to advantages: of a trajectory among its group, or of each token by a value
network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from erpd_core.faults import Fault


def group_normalised(reward_S: Tensor, group_S: Tensor, eps: float = 1e-4) -> Tensor:
    """(R - mean of its group) / (std of its group + eps), GRPO's advantage (DeepSeekMath, Eq. 4;
    sample std as in TRL).

    **Returns:** advantage_S, float32. A group of one, or of all equal rewards, gets exactly 0: it
    says nothing.
    """
    groups = int(group_S.max()) + 1
    count_G = torch.zeros(groups).index_add_(0, group_S, torch.ones_like(reward_S))
    mean_G = torch.zeros(groups).index_add_(0, group_S, reward_S) / count_G.clamp(min=1)
    centred_S = reward_S - mean_G[group_S]
    var_G = torch.zeros(groups).index_add_(0, group_S, centred_S**2) / (count_G - 1).clamp(min=1)
    return centred_S / (var_G.sqrt()[group_S] + eps)


def length_adaptive_lambda(length_S: Tensor, alpha: float = 0.05) -> Tensor:
    """`1 - 1 / (alpha * length)` within [0, 1], VAPO's for the policy (arXiv 2504.05118): credit
    reaches over a share alpha of a response.

    ERPD prints it without the "1 -"; that value exceeds 1 for responses under 1 / alpha tokens and
    nears 0 for long ones, so we follow VAPO. Responses of up to 1 / alpha tokens (20 at the
    default) get 0.

    **Returns:** lambda_S, float64.
    """
    return (1 - 1 / (alpha * length_S.double())).clamp(0.0, 1.0)


def gae(reward_S: Tensor, value_N: Tensor, length_S: Tensor, lambda_S: Tensor) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016) with gamma 1 and the outcome R as the
    reward of a response's last token.

    `A_t = sum_k lambda^k delta_{t+k}` with `delta_t = V_{t+1} - V_t`, at the last token `R - V_t`.
    Lambda 1 gives `R - V_t`, 0 delta.

    **Arguments:** `value_N` is V of the state each response token was chosen in, before that token;
    `lambda_S` one lambda per response.
    **Returns:** advantage_N, float32 (worked out in float64). Raises ValueError when the tokens are
    not as many as the lengths say.
    """
    if int(length_S.sum()) != len(value_N):
        raise ValueError(
            f"{len(value_N)} values for responses of {int(length_S.sum())} tokens; take the "
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
    """(A - mean) / (std + eps) over all response tokens of the batch, PPO's usual: float32.

    Raises Fault when all are equal, or one is not finite: there is nothing to learn.
    """
    centred_N = advantage_N.double() - advantage_N.double().mean()
    std = centred_N.square().mean().sqrt().item()
    if not 1e-12 < std < math.inf:
        raise Fault(
            "the advantage is the same on every token, or not finite, so there is nothing to learn",
            "see the critic and the outcomes",
        )
    return (centred_N / (std + eps)).float()
