"""Trajectory rewards to advantages."""

from __future__ import annotations

import torch
from torch import Tensor


def group_normalised(reward_S: Tensor, group_S: Tensor, eps: float = 1e-4) -> Tensor:
    """(R - mean of its group) / (std of its group + eps), GRPO's advantage (DeepSeekMath, Eq. 4; sample std as in TRL).

    **Returns:** advantage_S, float32. A group of one, or of all equal rewards, gets exactly 0: it says nothing.
    """
    groups = int(group_S.max()) + 1
    count_G = torch.zeros(groups).index_add_(0, group_S, torch.ones_like(reward_S))
    mean_G = torch.zeros(groups).index_add_(0, group_S, reward_S) / count_G.clamp(min=1)
    centred_S = reward_S - mean_G[group_S]
    var_G = torch.zeros(groups).index_add_(0, group_S, centred_S**2) / (count_G - 1).clamp(min=1)
    return centred_S / (var_G.sqrt()[group_S] + eps)
