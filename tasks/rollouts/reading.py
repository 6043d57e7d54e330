"""Stored shards, read: as a TokenBatch, and as outcomes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from erpd_core.batch import TokenBatch
from erpd_core.refs import RolloutRef
from tasks.store import Store


def shards(store: Store, ref: RolloutRef) -> Iterator[Path]:
    """Shard files in order."""
    return iter(sorted(store.path(ref.id).glob("shard-*.parquet")))


def load_batch(paths: Iterator[Path]) -> TokenBatch:
    """Shards as one TokenBatch."""
    return to_batch([pq.read_table(path) for path in paths])


def to_batch(tables: Sequence[pa.Table]) -> TokenBatch:
    """Rows of `SCHEMA` as one TokenBatch; consecutive rows of one problem are a group."""
    table = pa.concat_tables(tables).combine_chunks()
    problem = table["problem"].to_numpy(zero_copy_only=False)
    first = np.concatenate([[True], problem[1:] != problem[:-1]])
    prompts = table["prompt_tokens"].take(pa.array(np.flatnonzero(first))).to_pylist()
    responses = table["response_tokens"].combine_chunks()
    return TokenBatch(
        prompts=tuple(torch.tensor(prompt, dtype=torch.int64) for prompt in prompts),
        token_N=torch.from_numpy(responses.flatten().to_numpy().astype(np.int64)),
        offset_S=torch.from_numpy(responses.offsets.to_numpy().astype(np.int64)),
        group_S=torch.from_numpy(first.cumsum() - 1),
        reward_S=torch.from_numpy(table["reward"].to_numpy().copy()),
    )


def outcomes(store: Store, ref: RolloutRef) -> dict[str, list[float]]:
    """Problem id -> its outcomes, for AVG@K and paired comparison."""
    found: dict[str, list[float]] = {}
    for path in shards(store, ref):
        table = pq.read_table(path, columns=["problem", "reward"])
        for problem, reward in zip(table["problem"].to_pylist(), table["reward"].to_pylist(), strict=True):
            found.setdefault(problem, []).append(reward)
    return found
