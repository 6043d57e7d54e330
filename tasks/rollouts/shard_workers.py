"""Work on shards: by the stage's own process, or by Ray actors that may die and be replaced."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeVar

from erpd_core.config import RuntimeConfig
from tasks.execution.actors import Watch, map_over_actors
from tasks.execution.ray_cluster import ensure_ray
from tasks.execution.resource_requests import ResourceRequest

Shard = TypeVar("Shard")


class ShardWorker(Protocol):
    """Works on one shard at a time, and keeps its model loaded between shards."""

    def run(self, shard: Any, tick: Callable[[], object]) -> Any:
        """The result of a shard; `tick` is called as the work proceeds."""

    def close(self) -> None:
        """Free the model."""


def no_tick() -> None:
    """A `tick` for callers that show no progress."""


def map_over_shards(
    kind: type[ShardWorker],
    arguments: Callable[[RuntimeConfig], tuple[Any, ...]],
    shards: Sequence[Shard],
    runtime: RuntimeConfig,
    watch: Watch[Shard],
    actors: tuple[int, ResourceRequest] | None,
) -> Generator[tuple[Shard, Any]]:
    """Each shard with its result, as they are finished. Close the generator to stop every worker.

    **Arguments:**
        kind: The class of the workers.
        arguments: The constructor's arguments, from the runtime that a worker has to itself.
        watch: Shows progress; for actors, it also says whether a shard advances.
        actors: How many actors do the work, and what each requests of Ray; None for this process.
    **Raises:** RuntimeError if actors die repeatedly at one shard (`map_over_actors`).
    """
    if actors is None:
        worker = kind(*arguments(runtime))
        try:
            for shard in shards:
                yield shard, worker.run(shard, watch.show)
        finally:
            worker.close()
        return
    count, request = actors
    ensure_ray(runtime)
    own = runtime.model_copy(update={"cpus": request.cpus, "gpus": request.gpus})
    yield from map_over_actors(
        lambda start: start(kind, *arguments(own)),
        lambda actor, shard: actor.run.remote(shard),
        shards,
        watch,
        request,
        count,
        runtime.sampler_deadline,
    )
