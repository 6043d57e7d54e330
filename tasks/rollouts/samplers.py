"""Sampling of shards: one engine for each worker."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pyarrow as pa

from erpd_core.config import RuntimeConfig, SamplingConfig
from tasks.engines import Engine, Sample, open_engine
from tasks.execution.resource_requests import sampler_request
from tasks.host.machine import use_threads
from tasks.rollouts.journal import Journal
from tasks.rollouts.meter import Meter
from tasks.rollouts.rows import SampleIndex, sample_rows
from tasks.rollouts.shard import Shard
from tasks.rollouts.shard_workers import map_over_shards, no_tick


class Sampler:
    """A shard worker with one engine, opened at the first shard and kept for the others."""

    def __init__(
        self, policy: Path, runtime: RuntimeConfig, sampling: SamplingConfig, seed: int
    ) -> None:
        self.policy, self.runtime, self.sampling, self.seed = policy, runtime, sampling, seed
        self._engine: Engine | None = None

    def run(self, shard: Shard, tick: Callable[[], object] = no_tick) -> pa.Table:
        """The shard's rows, ungraded, with the columns of `SAMPLED`.

        Each finished response is written to the shard's journal at once; then `tick` is called.
        """
        if self._engine is None:
            use_threads(self.runtime.cpus)
            self._engine = open_engine(self.policy, self.runtime)
        with Journal(shard.journal, self.runtime.redo_seconds) as journal:

            def write(index: SampleIndex, sample: Sample) -> None:
                journal.write(index, sample)
                tick()

            known = shard.stored() | journal.found
            return sample_rows(shard.problems, self._engine, self.sampling, self.seed, known, write)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


def sample_shards(
    shards: Sequence[Shard],
    policy: Path,
    runtime: RuntimeConfig,
    sampling: SamplingConfig,
    seed: int,
    meter: Meter,
) -> Generator[tuple[Shard, pa.Table]]:
    """Each shard with its sampled rows, as they are finished (`map_over_shards`)."""
    actors = (runtime.samplers, sampler_request(runtime)) if runtime.samples_on_actors else None
    return map_over_shards(
        Sampler, lambda own: (policy, own, sampling, seed), shards, runtime, meter, actors
    )
