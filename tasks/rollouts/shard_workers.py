"""Work on shards: by the stage's own process, or by Ray actors that may die and be replaced."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from erpd_core.config import RuntimeConfig
from tasks.execution.actors import ActorPool, Watch
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


class ShardWorkers(Generic[Shard]):
    """The workers of a stage: its own process, or actors.

    **Arguments:**
        kind: The class of the workers.
        arguments: The constructor's arguments, from the runtime that a worker has to itself.
        actors: How many actors do the work, and what each requests of Ray; None for this process.
        keep: Whether actors stay between two calls of `map`.
    """

    def __init__(
        self,
        kind: type[ShardWorker],
        arguments: Callable[[RuntimeConfig], tuple[Any, ...]],
        runtime: RuntimeConfig,
        actors: tuple[int, ResourceRequest] | None,
        keep: bool = False,
    ) -> None:
        self._worker: ShardWorker | None = None
        self._pool: ActorPool[Shard] | None = None
        if actors is None:
            self._worker = kind(*arguments(runtime))
            return
        count, request = actors
        own = runtime.model_copy(update={"cpus": request.cpus, "gpus": request.gpus})
        ensure_ray(runtime)
        self._pool = ActorPool(
            lambda start: start(kind, *arguments(own)),
            lambda actor, shard: actor.run.remote(shard),
            request,
            count,
            runtime.sampler_deadline,
            keep,
        )

    def map(self, shards: Sequence[Shard], watch: Watch[Shard]) -> Generator[tuple[Shard, Any]]:
        """Each shard with its result, as they are finished.

        **Arguments:**
            watch: Shows progress; for actors, it also says whether a shard advances.
        **Raises:** RuntimeError if actors die repeatedly at one shard (`ActorPool.map`).
        """
        if self._pool is not None:
            yield from self._pool.map(shards, watch)
            return
        assert self._worker is not None, "without a pool there is a worker"
        for shard in shards:
            yield shard, self._worker.run(shard, watch.show)

    def close(self) -> None:
        """Stop every worker."""
        if self._worker is not None:
            self._worker.close()
        if self._pool is not None:
            self._pool.close()
