"""Reads stored shards: as a TokenBatch, and as outcomes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from erpd_core.batch import TokenBatch
from erpd_core.refs import RolloutRef
from tasks.rollouts.columns import gathered_column
from tasks.store import Store

COLUMNS = ["problem", "prompt_tokens", "response_tokens", "reward"]
"""The columns that a batch needs; texts are not read."""


def shards(store: Store, ref: RolloutRef) -> Iterator[Path]:
    """The shard files of a rollout, in order."""
    return iter(sorted(store.path(ref.id).glob("shard-*.parquet")))


def load_batch(paths: Iterator[Path]) -> TokenBatch:
    """Shards as one TokenBatch, read one by one.

    The tokens go to a scratch file if there are more than `tasks.rollouts.columns.IN_MEMORY`.
    Responses without a token are left out: they have nothing to score or to learn from, and axis N
    is the same without them.
    """
    return _batch(pq.read_table(path, columns=COLUMNS) for path in paths)


def to_batch(tables: Sequence[pa.Table]) -> TokenBatch:
    """Rows of `SCHEMA` as one TokenBatch; consecutive rows of one problem form a group."""
    return _batch(iter(tables))


def _batch(tables: Iterator[pa.Table]) -> TokenBatch:
    prompts: list[Tensor] = []
    groups, lengths, rewards = [], [], []
    last: str | None = None

    def tokens() -> Iterator[np.ndarray]:
        """The response tokens of each table; collects the other columns on the way."""
        nonlocal last
        for table in tables:
            table = table.select(COLUMNS).combine_chunks()
            problem = table["problem"].to_numpy(zero_copy_only=False)
            first = np.concatenate([[problem[0] != last], problem[1:] != problem[:-1]])
            groups.append(first.cumsum() + len(prompts) - 1)
            begins = table["prompt_tokens"].take(pa.array(np.flatnonzero(first))).to_pylist()
            prompts.extend(torch.tensor(prompt, dtype=torch.int64) for prompt in begins)
            responses = table["response_tokens"].combine_chunks()
            length = np.diff(responses.offsets.to_numpy())
            lengths.append(length[length > 0])
            groups[-1] = groups[-1][length > 0]
            rewards.append(table["reward"].to_numpy()[length > 0])
            last = problem[-1]
            yield responses.flatten().to_numpy()

    token_N = gathered_column(tokens())
    return TokenBatch(
        prompts=tuple(prompts),
        token_N=token_N,
        offset_S=torch.from_numpy(np.concatenate([[0], np.concatenate(lengths)]).cumsum()),
        group_S=torch.from_numpy(np.concatenate(groups)),
        reward_S=torch.from_numpy(np.concatenate(rewards)),
    )


def outcomes(store: Store, ref: RolloutRef) -> dict[str, list[float]]:
    """Problem id -> its rewards (1 or 0), for AVG@K and paired comparison."""
    by_problem: dict[str, list[float]] = {}
    for path in shards(store, ref):
        table = pq.read_table(path, columns=["problem", "reward"])
        for problem, reward in zip(
            table["problem"].to_pylist(), table["reward"].to_pylist(), strict=True
        ):
            by_problem.setdefault(problem, []).append(reward)
    return by_problem
