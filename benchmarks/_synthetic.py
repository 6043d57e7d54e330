"""Synthetic rollouts and columns in a store, for measurements that need no model.

They have the form that a campaign leaves; tokens and log-probs are random.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from erpd_core.refs import LogprobRef, PolicyRef, ProblemsRef, RolloutRef
from tasks.rollouts import SCHEMA, shard_name
from tasks.store import Store

SAMPLES, PROMPTS = 16, 8
"""Samples per problem, and problems per shard, as in the recipe `paper`."""
SEQUENCES = SAMPLES * PROMPTS
VOCABULARY = 151_936
PROMPT = 150
POLICY = PolicyRef(id="policy-synthetic")

Built = tuple[RolloutRef, list[LogprobRef]]
"""A rollout and its columns."""


def rollouts(store: Store, shards: int, length: int, smaller: str | None = None) -> RolloutRef:
    """Store `shards` shards of `SEQUENCES` responses with `length` tokens each.

    The shards of a smaller rollout with this length are linked, not written again.
    """
    count = SEQUENCES * shards
    ref = {
        "policy": POLICY,
        "problems": ProblemsRef(id="problems-synthetic", name="synthetic", count=PROMPTS * shards),
        "samples": SAMPLES,
        "sequences": count,
        "tokens": count * length,
        "accuracy": 0.5,
    }
    known = _known(store, smaller)
    with store.build("rollouts", {"shards": shards, "length": length}, {}, 1) as build:
        assert build is not None, "a store of its own"
        for number in range(shards):
            name = shard_name(number)
            write = partial(_write_rows, number=number, length=length)
            build.put(name, known.get(name, write))
        build.commit({})
        return RolloutRef(id=build.id, **ref)


def column(store: Store, of: RolloutRef, number: int, smaller: str | None = None) -> LogprobRef:
    """Store a column of log-probs of policy `number`: those of policy 0 plus noise.

    The shards of a smaller column of the same policy are linked, not written again.
    """
    known = _known(store, smaller)
    with store.build("column", {"number": number}, {"rollouts": of.id}, 1) as build:
        assert build is not None, "a store of its own"
        shards = of.sequences // SEQUENCES
        for shard in range(shards):
            size = of.tokens // shards
            name = Path(shard_name(shard)).with_suffix(".safetensors").name
            write = partial(_write_column, shard=shard, number=number, size=size)
            build.put(name, known.get(name, write))
        build.commit({})
        return LogprobRef(id=build.id, policy=POLICY, rollouts=of.id)


def _known(store: Store, artifact: str | None) -> dict[str, Callable[[Path], object]]:
    """Return what links each shard of an artifact, by name."""
    paths = files(store, artifact) if artifact else []
    return {path.name: partial(os.link, path) for path in paths}


def files(store: Store, artifact: str) -> list[Path]:
    """Return the shards of an artifact."""
    return sorted(store.path(artifact).glob("shard-*"))


def forget(paths: list[Path]) -> None:
    """Ask the system to drop files from its cache, so that the next read comes from the disk."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _write_rows(path: Path, number: int, length: int) -> None:
    draw = np.random.default_rng([number, 0])
    problems = np.repeat(np.arange(PROMPTS) + number * PROMPTS, SAMPLES)
    prompts = np.repeat(
        draw.integers(0, VOCABULARY, (PROMPTS, PROMPT), dtype=np.int32), SAMPLES, axis=0
    )
    tokens = draw.integers(0, VOCABULARY, SEQUENCES * length, dtype=np.int32)
    right = draw.random(SEQUENCES) < 0.5
    texts = pa.array([""] * SEQUENCES)
    columns = {
        "problem": pa.array([f"p{problem:06d}" for problem in problems]),
        "sample": pa.array(np.tile(np.arange(SAMPLES, dtype=np.int32), PROMPTS)),
        "prompt_tokens": _lists(prompts.reshape(-1), PROMPT),
        "response_tokens": _lists(tokens, length),
        "text": texts,
        "gold": texts,
        "verdict": pa.array(np.where(right, "correct", "wrong")),
        "reward": pa.array(right.astype(np.float32)),
        "truncated": pa.array(np.zeros(SEQUENCES, bool)),
    }
    pq.write_table(
        pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA),
        path,
        compression="zstd",
    )


def _lists(flat: np.ndarray, width: int) -> pa.ListArray:
    return pa.ListArray.from_arrays(
        np.arange(0, len(flat) + 1, width, dtype=np.int32), pa.array(flat)
    )


def _write_column(path: Path, shard: int, number: int, size: int) -> None:
    lp = -np.random.default_rng([shard, 1]).exponential(0.3, size).astype(np.float32)
    if number:
        lp += (
            0.05
            * number
            * np.random.default_rng([shard, 1 + number]).standard_normal(size, dtype=np.float32)
        )
    save_file({"lp": lp}, path)


def built(
    store: Store, shards: int, length: int, columns: int, smaller: Built | None = None
) -> Built:
    """Store a rollout and its columns, with the shards of a smaller batch of the same form."""
    known: list[str | None] = [None] * (1 + columns)
    if smaller:
        known = [smaller[0].id, *(column.id for column in smaller[1])]
    of = rollouts(store, shards, length, known[0])
    return of, [column(store, of, number, below) for number, below in enumerate(known[1:])]
