"""Checks that a stored batch carries a learning signal for a loss, before training on it."""

from __future__ import annotations

import pyarrow.compute as pc
import pyarrow.parquet as pq

from erpd_core.batch_outcomes import BatchOutcomes
from erpd_core.config import Loss
from erpd_core.loss_requirements import require_learning_signal
from erpd_core.refs import RolloutRef
from tasks.rollouts import shards
from tasks.store import Store

COLUMNS = ["problem", "response_tokens", "reward", "truncated"]


def batch_outcomes(store: Store, ref: RolloutRef) -> BatchOutcomes:
    """Counts of a stored batch, read shard by shard."""
    verdicts: dict[str, set[bool]] = {}
    right = empty = truncated = 0
    for path in shards(store, ref):
        table = pq.read_table(path, columns=COLUMNS)
        length_S = pc.list_value_length(table["response_tokens"]).to_pylist()
        truncated += sum(table["truncated"].to_pylist())
        for problem, reward, length in zip(
            table["problem"].to_pylist(), table["reward"].to_pylist(), length_S, strict=True
        ):
            outcomes = verdicts.setdefault(problem, set())
            if not length:
                empty += 1
                continue
            right += reward > 0.5
            outcomes.add(reward > 0.5)
    mixed = sum(len(outcomes) == 2 for outcomes in verdicts.values())
    return BatchOutcomes(
        responses=ref.sequences,
        right=right,
        empty=empty,
        truncated=truncated,
        groups=len(verdicts),
        mixed_groups=mixed,
    )


def check_learning_signal(store: Store, ref: RolloutRef, loss: Loss) -> None:
    """Refuse a stored batch from which the loss cannot learn.

    **Raises:** Fault with the counts of the batch and a remedy.
    """
    require_learning_signal(batch_outcomes(store, ref), loss)
