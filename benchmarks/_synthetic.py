"""Synthetic rollouts and columns in a store, for measurements that need no model.

They have the form that a campaign leaves; tokens and log-probs are random.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
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


def rollouts(store: Store, shards: int, length: int) -> RolloutRef:
    """Store `shards` shards of `SEQUENCES` responses with `length` tokens each."""
    count = SEQUENCES * shards
    ref = {
        "policy": POLICY,
        "problems": ProblemsRef(id="problems-synthetic", name="synthetic", count=PROMPTS * shards),
        "samples": SAMPLES,
        "sequences": count,
        "tokens": count * length,
        "accuracy": 0.5,
    }
    with store.build("rollouts", {"shards": shards, "length": length}, {}, 1) as build:
        assert build is not None, "a store of its own"
        for number in range(shards):
            build.put(shard_name(number), partial(_write_rows, number=number, length=length))
        build.commit({})
        return RolloutRef(id=build.id, **ref)


def column(store: Store, of: RolloutRef, number: int) -> LogprobRef:
    """Store a column of log-probs of policy `number`: those of policy 0 plus noise."""
    with store.build("column", {"number": number}, {"rollouts": of.id}, 1) as build:
        assert build is not None, "a store of its own"
        shards = of.sequences // SEQUENCES
        for shard in range(shards):
            size = of.tokens // shards
            name = Path(shard_name(shard)).with_suffix(".safetensors").name
            build.put(name, partial(_write_column, shard=shard, number=number, size=size))
        build.commit({})
        return LogprobRef(id=build.id, policy=POLICY, rollouts=of.id)


def part(store: Store, artifact: str, shards: int) -> str:
    """Store the first shards of an artifact as a new artifact, by hard links to the same files."""
    kind = artifact.partition("-")[0]
    with store.build(kind, {"part": shards}, {"of": artifact}, 1) as build:
        assert build is not None, "a store of its own"
        for path in sorted(store.path(artifact).glob("shard-*"))[:shards]:
            build.put(path.name, partial(os.link, path))
        build.commit({})
        return build.id


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
    store: Store, shards: int, length: int, columns: int
) -> tuple[RolloutRef, list[LogprobRef]]:
    """Store a rollout and its columns."""
    of = rollouts(store, shards, length)
    return of, [column(store, of, number) for number in range(columns)]


def parts(
    store: Store, of: RolloutRef, columns: list[LogprobRef], sizes: list[int]
) -> Iterator[tuple[str, list[str]]]:
    """Yield the ids (rollout, columns) of the first `size` shards, for each of `sizes`."""
    shards = of.sequences // SEQUENCES
    for size in sizes:
        ids = [column.id for column in columns]
        yield (
            (of.id, ids)
            if size == shards
            else (part(store, of.id, size), [part(store, id, size) for id in ids])
        )
