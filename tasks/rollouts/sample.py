"""The stage that samples a policy on problems and verifies the responses."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from erpd_core.config import RuntimeConfig, SamplingConfig
from erpd_core.faults import Fault
from erpd_core.refs import PolicyRef, ProblemsRef, Refill, RolloutRef
from erpd_core.schedule import Phase
from tasks.datasets import load_problems
from tasks.execution.stage import Context, Stage, Verb
from tasks.grading import open_grader
from tasks.rollouts.meter import Meter
from tasks.rollouts.rows import grade_rows
from tasks.rollouts.samplers import sample_shards
from tasks.rollouts.shard import Shard, shard_name
from tasks.store import Build


class SampleRollouts(Stage[RolloutRef]):
    """Sample a policy on problems and verify every response.

    Sec. 3.1: sampled once, verified once, then reused.
    """

    KIND: ClassVar[str] = "rollouts"
    VERSION: ClassVar[int] = 2
    REF: ClassVar[type] = RolloutRef
    VERB: ClassVar[Verb] = "rollouts"
    PHASE: ClassVar[Phase | None] = "rollouts"
    PREFIX: ClassVar[str] = ""
    """Prefix of the names of its shards, before they are what the stage returns."""

    policy: PolicyRef
    problems: ProblemsRef
    sampling: SamplingConfig
    seed: int

    def runs_on_actors(self, runtime: RuntimeConfig) -> bool:
        return runtime.samples_on_actors

    def spec(self) -> dict[str, Any]:
        return {"sampling": self.sampling.model_dump(mode="json"), "seed": self.seed}

    def inputs(self) -> dict[str, str]:
        return {"policy": self.policy.id, "problems": self.problems.id}

    def compute(self, context: Context, build: Build) -> RolloutRef:
        shards = self._shards(context, build)
        self._complete(context, build, shards)
        return self._ref(build, [shard.path.name for shard in shards])

    def _complete(self, context: Context, build: Build, shards: Sequence[Shard]) -> None:
        """Sample the shards that the build does not have yet."""
        total = sum(len(shard.problems) for shard in shards) * self.sampling.samples
        todo = []
        for shard in shards:
            if build.done(shard.path.name):
                # a kill right after `put` leaves it
                shard.journal.unlink(missing_ok=True)
            else:
                todo.append(shard)
        if todo:
            self._sample(context, build, todo, total)
            context.progress(total, total)

    def _shards(self, context: Context, build: Build) -> list[Shard]:
        problems, size = load_problems(context.store, self.problems), self.sampling.shard
        names = {
            start: self.PREFIX + shard_name(start // size)
            for start in range(0, len(problems), size)
        }
        fewer = self._fewer(context)
        return [
            Shard(
                path=build.folder / name,
                problems=tuple(problems[start : start + size]),
                policy=context.store.path(self.policy.id),
                sampling=self.sampling,
                seed=self.seed,
                fewer=fewer / name if fewer else None,
            )
            for start, name in names.items()
        ]

    def _sample(self, context: Context, build: Build, todo: list[Shard], total: int) -> None:
        missing = sum(len(shard.problems) for shard in todo) * self.sampling.samples
        known = sum(shard.known for shard in todo)
        meter = Meter(context.progress, todo, total - missing + known, total)
        with (
            open_grader(self.problems.extractor) as grader,
            closing(sample_shards(todo, context.runtime, meter)) as tables,
        ):
            for shard, rows in tables:
                table = grade_rows(rows, shard.problems, grader, self.problems.extractor)
                build.put(shard.path.name, partial(pq.write_table, table, compression="zstd"))
                meter.stored(shard)

    def _fewer(self, context: Context) -> Path | None:
        """Folder of a stored rollout with the same spec but fewer samples a problem, or None.

        Its samples equal the first ones of this rollout, because a seed depends only on problem and
        sample. The rollout with the most samples counts; None if it was cheap to compute.
        """
        for samples in range(self.sampling.samples - 1, 0, -1):
            smaller = self.model_copy(
                update={"sampling": self.sampling.model_copy(update={"samples": samples})}
            ).identity()
            if context.store.path(smaller).exists() and context.store.has(smaller):
                cost = context.store.manifest(smaller).seconds
                return context.store.path(smaller) if cost >= context.runtime.redo_seconds else None
        return None

    def _ref(self, build: Build, names: list[str], refill: Refill | None = None) -> RolloutRef:
        sequences = tokens = 0
        reward = 0.0
        for name in names:
            table = pq.read_table(build.folder / name, columns=["response_tokens", "reward"])
            sequences += len(table)
            tokens += pa.compute.sum(pa.compute.list_value_length(table["response_tokens"])).as_py()
            reward += pa.compute.sum(table["reward"]).as_py()
        if not tokens:
            raise Fault(
                f"none of {sequences} responses has a token",
                "look at the model's stop tokens and its context length",
                build.id,
            )
        return RolloutRef(
            id=build.id,
            refill=refill,
            policy=self.policy,
            problems=self.problems,
            samples=self.sampling.samples,
            sequences=sequences,
            tokens=tokens,
            accuracy=reward / sequences,
        )
