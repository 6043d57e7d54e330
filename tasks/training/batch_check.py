"""Has a stored batch something to teach? Looked at before anything is trained on it."""

from __future__ import annotations

import pyarrow.compute as pc
import pyarrow.parquet as pq

from erpd_core.batch_outcomes import Outcomes
from erpd_core.config import Loss
from erpd_core.loss_requirements import require_lesson
from erpd_core.refs import RolloutRef
from tasks.rollouts import shards
from tasks.store import Store

COLUMNS = ["problem", "response_tokens", "reward", "truncated"]


def batch_outcomes(store: Store, ref: RolloutRef) -> Outcomes:
    """The counts of a batch, read shard by shard."""
    told: dict[str, set[bool]] = {}
    right = empty = truncated = 0
    for path in shards(store, ref):
        table = pq.read_table(path, columns=COLUMNS)
        length_S = pc.list_value_length(table["response_tokens"]).to_pylist()
        truncated += sum(table["truncated"].to_pylist())
        for problem, reward, length in zip(
            table["problem"].to_pylist(), table["reward"].to_pylist(), length_S, strict=True
        ):
            outcomes = told.setdefault(problem, set())
            if not length:
                empty += 1
                continue
            right += reward > 0.5
            outcomes.add(reward > 0.5)
    telling = sum(len(outcomes) == 2 for outcomes in told.values())
    return Outcomes(
        responses=ref.sequences,
        right=right,
        empty=empty,
        truncated=truncated,
        groups=len(told),
        telling=telling,
    )


def check_lesson(store: Store, ref: RolloutRef, loss: Loss) -> None:
    """Raises Fault when the loss has nothing to learn from the batch."""
    require_lesson(batch_outcomes(store, ref), loss)
