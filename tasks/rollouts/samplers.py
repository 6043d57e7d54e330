"""Who samples the shards: the stage's own process, or actors beside it, any of which may die and
be replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pyarrow as pa

from erpd_core.config import RuntimeConfig, SamplingConfig
from tasks.engines import Engine, Sample, open_engine
from tasks.execution.actors import map_over_actors
from tasks.execution.ray_cluster import ensure_ray
from tasks.execution.requests import sampler_request
from tasks.host.machine import use_threads
from tasks.rollouts.journal import Journal
from tasks.rollouts.meter import Meter
from tasks.rollouts.rows import SampleIndex, sample_rows
from tasks.rollouts.shard import Shard


class Sampler:
    """One engine, opened at the first shard and warm from then on."""

    def __init__(
        self, policy: Path, runtime: RuntimeConfig, sampling: SamplingConfig, seed: int
    ) -> None:
        self.policy, self.runtime, self.sampling, self.seed = policy, runtime, sampling, seed
        self._engine: Engine | None = None

    def sample(self, shard: Shard, tick: Callable[[], object] = lambda: None) -> pa.Table:
        """Rows of `SAMPLED`. Finished responses are in the shard's journal at once, and then
        `tick` is called.
        """
        if self._engine is None:
            use_threads(self.runtime.cpus)
            self._engine = open_engine(self.policy, self.runtime)
        with Journal(shard.journal, self.runtime.redo_seconds) as journal:

            def tell(place: SampleIndex, sample: Sample) -> None:
                journal.write(place, sample)
                tick()

            return sample_rows(
                shard.problems,
                self._engine,
                self.sampling,
                self.seed,
                shard.stored() | journal.found,
                tell,
            )

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


def sampled(
    shards: Sequence[Shard],
    policy: Path,
    runtime: RuntimeConfig,
    sampling: SamplingConfig,
    seed: int,
    meter: Meter,
) -> Generator[tuple[Shard, pa.Table]]:
    """Each shard with its rows of `SAMPLED`, as they are finished. Close it, and no engine and no
    actor stays.

    Raises RuntimeError when the actors that are given one shard die again and again (see
    `tasks.execution.actors.map_over_actors`).
    """
    if not runtime.samples_apart:
        sampler = Sampler(policy, runtime, sampling, seed)
        try:
            for shard in shards:
                yield shard, sampler.sample(shard, meter.show)
        finally:
            sampler.close()
        return

    ensure_ray(runtime)
    share = sampler_request(runtime)
    own = runtime.model_copy(update={"cpus": share.cpus, "gpus": share.gpus})
    yield from map_over_actors(
        lambda start: start(Sampler, policy, own, sampling, seed),
        lambda actor, shard: actor.sample.remote(shard),
        shards,
        meter,
        share,
        runtime.samplers,
        runtime.sampler_deadline,
    )
