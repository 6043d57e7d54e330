"""What is known of a step of on-policy training: its fresh samples, and the updates taken on
them (Fig. 8, Tables 3 and 4).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from erpd_core.batch import TokenBatch
from erpd_core.kl import k1
from erpd_core.step_statistics import Record


def informative_groups(advantage_S: Tensor, group_S: Tensor) -> int:
    """How many groups have an advantage other than 0: those whose outcomes differ."""
    return len(group_S[advantage_S != 0].unique())


def fresh_record(batch: TokenBatch, lp_N: Tensor, entropy_N: Tensor, start_N: Tensor) -> Record:
    """Means over one fresh batch of theta, before its update.

    **Arguments:** `lp_N`, `entropy_N` theta's own, `start_N` the log-probs of the policy the run
    started from, float32 columns.
    **Returns:** `reward_mean` per response (accuracy on training prompts), `length_mean` tokens per
    response, `entropy` nats per token, and `kl_theta_start`: KL(theta || start), k1, sampled by
    theta, nats per token; the tables' KL, but on training prompts.
    """
    return {
        "reward_mean": batch.reward_S.double().mean().item(),
        "length_mean": batch.length_S.double().mean().item(),
        "entropy": entropy_N.double().mean().item(),
        "kl_theta_start": k1(lp_N.double(), start_N.double()).mean().item(),
    }


def mean_record(updates: Sequence[Record]) -> Record:
    """The records of the updates on one batch as one: means, of `ratio_max` the largest and of
    `ratio_min` the smallest; {} for none.
    """
    keys = dict.fromkeys(key for update in updates for key in update)
    columns = {key: [update[key] for update in updates if key in update] for key in keys}
    extremes = {"ratio_max": max, "ratio_min": min}
    return {
        key: extremes[key](values) if key in extremes else sum(values) / len(values)
        for key, values in columns.items()
    }
