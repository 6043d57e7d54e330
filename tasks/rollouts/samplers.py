"""Sampling of shards: one engine for each worker."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path

import pyarrow as pa

from erpd_core.config import RuntimeConfig
from tasks.engines import Engine, Sample, open_engine
from tasks.execution.resource_requests import sampler_request
from tasks.execution.stage import before_waiting
from tasks.host.machine import use_threads
from tasks.models.architecture import same_architecture
from tasks.models.policy import load_model
from tasks.rollouts.journal import Journal
from tasks.rollouts.meter import Meter
from tasks.rollouts.rows import SampleIndex, sample_rows
from tasks.rollouts.shard import Shard
from tasks.rollouts.shard_workers import ShardWorkers, no_tick


class Sampler:
    """A shard worker with one engine, opened at the first shard and kept for the others.

    A shard of another policy with the same architecture and tokenizer only replaces the weights.
    """

    def __init__(self, runtime: RuntimeConfig) -> None:
        self.runtime = runtime
        self._engine: Engine | None = None
        self._policy: Path | None = None

    def run(self, shard: Shard, tick: Callable[[], object] = no_tick) -> pa.Table:
        """The shard's rows, ungraded, with the columns of `SAMPLED`.

        Each finished response is written to the shard's journal at once; then `tick` is called.
        """
        engine = self._engine_for(shard.policy)
        with Journal(shard.journal, self.runtime.redo_seconds) as journal:

            def write(index: SampleIndex, sample: Sample) -> None:
                journal.write(index, sample)
                tick()

            known = shard.stored() | journal.found
            return sample_rows(shard.problems, engine, shard.sampling, shard.seed, known, write)

    def _engine_for(self, policy: Path) -> Engine:
        """The engine, with the weights of the policy in this folder."""
        if self._engine is not None and self._policy != policy:
            if self._policy is not None and same_architecture(self._policy, policy):
                self._policy = None  # the weights are of neither until all are replaced
                model = load_model(policy, self.runtime.model_copy(update={"device": "cpu"}))
                self._engine.load_weights(model.named_parameters())
            else:
                self.close()
        if self._engine is None:
            use_threads(self.runtime.cpus)
            self._engine = open_engine(policy, self.runtime)
        self._policy = policy
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine = self._policy = None


_kept: ContextVar[ShardWorkers[Shard] | None] = ContextVar("_kept", default=None)


@contextmanager
def kept_engines(runtime: RuntimeConfig) -> Iterator[None]:
    """Sample everything within this block with the same engines.

    For a stage that samples several policies or problem lists: each engine starts once. On a GPU,
    nothing else that needs memory may run within the block. Before the stage waits for another one
    that samples the same, it closes the engines: the other may wait for what they hold.
    """
    with closing(_workers(runtime, keep=True)) as workers:
        kept, waiting = _kept.set(workers), before_waiting.set(workers.close)
        try:
            yield
        finally:
            _kept.reset(kept)
            before_waiting.reset(waiting)


def _workers(runtime: RuntimeConfig, keep: bool) -> ShardWorkers[Shard]:
    actors = (runtime.samplers, sampler_request(runtime)) if runtime.samples_on_actors else None
    return ShardWorkers(Sampler, lambda own: (own,), runtime, actors, keep)


def sample_shards(
    shards: Sequence[Shard], runtime: RuntimeConfig, meter: Meter
) -> Generator[tuple[Shard, pa.Table]]:
    """Each shard with its sampled rows, as they are finished (`ShardWorkers.map`)."""
    if (workers := _kept.get()) is not None:
        yield from workers.map(shards, meter)
        return
    with closing(_workers(runtime, keep=False)) as own:
        yield from own.map(shards, meter)
