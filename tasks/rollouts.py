"""Prompts x policy -> graded samples, in shards that are durable one by one, and back into a TokenBatch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from erpd_core.batch import TokenBatch
from erpd_core.config import SamplingConfig
from erpd_core.refs import PolicyRef, Problem, ProblemsRef, RolloutRef
from tasks.datasets import load_problems
from tasks.engines import Engine, open_engine
from tasks.grading import Grader
from tasks.stage import Context, Stage
from tasks.store import Build, Store

SCHEMA = pa.schema(
    [
        ("problem", pa.string()),
        ("sample", pa.int32()),
        ("prompt_tokens", pa.list_(pa.int32())),
        ("response_tokens", pa.list_(pa.int32())),
        ("text", pa.string()),
        ("gold", pa.string()),
        ("verdict", pa.string()),
        ("reward", pa.float32()),
        ("truncated", pa.bool_()),
    ]
)
"""One row a response, problem after problem, sample after sample."""


class SampleRollouts(Stage[RolloutRef]):
    """Sample a policy on problems and verify every response (Sec. 3.1: sampled once, verified once, then reused)."""

    KIND: ClassVar[str] = "rollouts"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = RolloutRef

    policy: PolicyRef
    problems: ProblemsRef
    sampling: SamplingConfig
    seed: int

    def question(self) -> dict[str, Any]:
        return {"sampling": self.sampling.model_dump(mode="json"), "seed": self.seed}

    def inputs(self) -> dict[str, str]:
        return {"policy": self.policy.id, "problems": self.problems.id}

    def run(self, context: Context, build: Build) -> RolloutRef:
        problems = load_problems(context.store, self.problems)
        size = self.sampling.shard
        names = {start: shard_name(start // size) for start in range(0, len(problems), size)}
        todo = [start for start, name in names.items() if not build.done(name)]
        total = len(problems) * self.sampling.samples
        if todo:
            with closing(open_engine(context.store.path(self.policy.id), context.runtime)) as engine, Grader() as grader:
                for start in todo:
                    ready = sum(build.done(name) for name in names.values()) * size * self.sampling.samples
                    some, tick = problems[start : start + size], _Ticker(context, ready, total)
                    table = sample_and_grade(some, engine, grader, self.sampling, self.seed, self.problems.extractor, tick)
                    build.put(names[start], partial(pq.write_table, table, compression="zstd"))
            context.progress(total, total)
        return self._ref(build, list(names.values()))

    def _ref(self, build: Build, names: list[str]) -> RolloutRef:
        sequences = tokens = 0
        reward = 0.0
        for name in names:
            table = pq.read_table(build.folder / name, columns=["response_tokens", "reward"])
            sequences += len(table)
            tokens += pa.compute.sum(pa.compute.list_value_length(table["response_tokens"])).as_py()
            reward += pa.compute.sum(table["reward"]).as_py()
        return RolloutRef(
            id=build.id,
            policy=self.policy,
            problems=self.problems,
            samples=self.sampling.samples,
            sequences=sequences,
            tokens=tokens,
            accuracy=reward / sequences,
        )


def sample_and_grade(
    problems: Sequence[Problem],
    engine: Engine,
    grader: Grader,
    sampling: SamplingConfig,
    seed: int,
    extractor: str,
    tick: Callable[[int], None],
) -> pa.Table:
    """`sampling.samples` verified responses to each problem: rows of `SCHEMA`. `tick(finished)` reports responses."""
    prompts = [engine.encode(problem.prompt) for problem in problems]
    seeds = [[seed_of(seed, problem.id, sample) for sample in range(sampling.samples)] for problem in problems]
    ready = count(1)
    samples = engine.sample(prompts, seeds, sampling, lambda index, sample: tick(next(ready)))
    texts = [engine.decode(sample.tokens) for sample in samples]
    owner = [index for index in range(len(problems)) for _ in range(sampling.samples)]
    pairs = [(problems[index].answer, text) for index, text in zip(owner, texts, strict=True)]
    verdicts = grader.grade_many(pairs, extractor=extractor)
    return pa.table(
        {
            "problem": [problems[index].id for index in owner],
            "sample": [row % sampling.samples for row in range(len(samples))],
            "prompt_tokens": [prompts[index] for index in owner],
            "response_tokens": [sample.tokens for sample in samples],
            "text": texts,
            "gold": [problems[index].answer for index in owner],
            "verdict": list(verdicts),
            "reward": [float(verdict == "correct") for verdict in verdicts],
            "truncated": [sample.truncated for sample in samples],
        },
        schema=SCHEMA,
    )


class _Ticker:
    """Tells the progress of one shard as part of the whole."""

    def __init__(self, context: Context, ready: int, total: int) -> None:
        self.context, self.ready, self.total = context, ready, total

    def __call__(self, finished: int) -> None:
        self.context.progress(min(self.ready + finished, self.total - 1), self.total)


def shard_name(index: int) -> str:
    return f"shard-{index:05d}.parquet"


def seed_of(seed: int, problem: str, sample: int) -> int:
    """A 64-bit seed that belongs to one response of one problem, whoever samples it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{problem}/{sample}".encode()).digest()[:8], "big")


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
