"""Records of an on-policy training step: fresh samples and updates (Fig. 8, Tables 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from erpd_core.batch import TokenBatch
from erpd_core.kl import k1
from erpd_core.step_statistics import Record


def informative_groups(advantage_S: Tensor, group_S: Tensor) -> int:
    """The number of groups with a nonzero advantage: those with mixed outcomes."""
    return len(group_S[advantage_S != 0].unique())


def fresh_record(batch: TokenBatch, lp_N: Tensor, entropy_N: Tensor, start_N: Tensor) -> Record:
    """Means over one fresh batch, sampled by theta before its update.

    **Arguments:**
        lp_N, entropy_N: Log-probs and entropies of theta, float32, nats.
        start_N: Log-probs of the policy from which the run started, float32, nats.
    **Returns:** `reward_mean` per response (accuracy on training prompts), `length_mean` in tokens
        per response, `entropy` in nats per token, and `kl_theta_start`: KL(theta || start), k1,
        sampled by theta, in nats per token. It is the KL of the paper's tables, but on training
        prompts.
    """
    return {
        "reward_mean": batch.reward_S.double().mean().item(),
        "length_mean": batch.length_S.double().mean().item(),
        "entropy": entropy_N.double().mean().item(),
        "kl_theta_start": k1(lp_N.double(), start_N.double()).mean().item(),
    }


def mean_record(updates: Sequence[Record]) -> Record:
    """Merge the records of the updates on one batch into one record.

    **Returns:** The mean of each number over the updates that have it; of `ratio_max` the largest
        value and of `ratio_min` the smallest. {} without updates.
    """
    keys = dict.fromkeys(key for update in updates for key in update)
    columns = {key: [update[key] for update in updates if key in update] for key in keys}
    extremes = {"ratio_max": max, "ratio_min": min}
    return {
        key: extremes[key](values) if key in extremes else sum(values) / len(values)
        for key, values in columns.items()
    }
