"""Gangs of Ray actors: they start together, and after a death all of them start again.

They continue from what they had made durable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tasks.execution.actors import DEATHS
from tasks.execution.resource_requests import ResourceRequest

GRACE_SECONDS = 15.0
"""How long to wait for the other actors after the error of one: when an actor dies, the others
raise errors too, perhaps before the death is seen.
"""


def run_gang(
    name: str,
    make: Callable[[Callable[..., Any], str], list[Any]],
    call: Callable[[Any], Any],
    request: ResourceRequest,
    count: int,
    sign: Callable[[], object],
    say: Callable[[str], object],
) -> list[Any]:
    """The results of the actors of a gang, in the order of the actors.

    Their resources are one placement group, on as few machines as possible. Of two gangs that wait,
    therefore, none holds half of what it needs.

    **Arguments:**
        name: Name of the placement group. One of this name that a killed process left behind is
            removed first.
        make: `make(start, address)` calls `start(Class, *arguments)` for each actor. `address` is
            that of the first actor's machine.
        call: `call(actor)` makes the remote call.
        request: What each actor requests of Ray.
        count: Number of actors.
        sign: Gives a value that changes as the work proceeds.
        say: Reports a death.
    **Raises:** RuntimeError after `DEATHS` deaths in a row without a new sign. An exception of an
        actor is raised unchanged.
    """
    deaths, seen = 0, sign()
    while True:
        with _placement(name, request, count) as placement, _actors(make, placement) as actors:
            results, death = _results([call(actor) for actor in actors])
        if death is None:
            return results
        deaths, seen = (deaths + 1, seen) if sign() == seen else (1, sign())
        if deaths >= DEATHS:
            raise RuntimeError(
                f"{name}: a worker died ({death}); {DEATHS} have died at the same place. Finished "
                f"work is kept: run the same command"
                " again, with more memory for each (fewer runtime.trainers to a machine, a "
                "smaller runtime.token_budget, runtime.recompute)"
            )
        say(f"a worker died ({death}); all resume from the last checkpoint")


@dataclass(frozen=True)
class _Placement:
    """A placement group that is ready, with a bundle for each actor."""

    group: Any
    request: ResourceRequest

    def options(self, rank: int) -> dict[str, Any]:
        """Ray options that put the actor of a rank into its bundle."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return {
            **self.request.options,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self.group, rank),
        }

    @property
    def address(self) -> str:
        """Address of the machine with the first bundle."""
        import ray

        first = ray.util.placement_group_table(self.group)["bundles_to_node_id"][0]
        address: str = next(
            node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == first
        )
        return address


@contextmanager
def _placement(name: str, request: ResourceRequest, count: int) -> Iterator[_Placement]:
    import ray

    with suppress(ValueError):  # no group of this name
        ray.util.remove_placement_group(ray.util.get_placement_group(name))
    bundle = {"CPU": request.cpus} | ({"GPU": request.gpus} if request.gpus else {})
    group = ray.util.placement_group([bundle] * count, strategy="PACK", name=name)
    try:
        while not group.wait(60):
            pass
        yield _Placement(group, request)
    finally:
        ray.util.remove_placement_group(group)


@contextmanager
def _actors(
    make: Callable[[Callable[..., Any], str], list[Any]], placement: _Placement
) -> Iterator[list[Any]]:
    import ray

    started: list[Any] = []

    def start(kind: type[Any], *arguments: Any) -> Any:
        options = {**placement.options(len(started)), "max_restarts": 0, "max_task_retries": 0}
        started.append(ray.remote(kind).options(**options).remote(*arguments))
        return started[-1]

    try:
        yield make(start, placement.address)
    finally:
        for actor in started:
            ray.kill(actor)


def _results(references: list[Any]) -> tuple[list[Any], str | None]:
    """The results of all actors and None; or no results and how an actor died.

    Raises the exception of an actor if none died.
    """
    import ray

    results: dict[Any, Any] = {}
    death: str | None = None
    error: Exception | None = None
    waiting, until = list(references), None
    while waiting:
        ready, waiting = ray.wait(
            waiting, timeout=None if until is None else max(0.0, until - time.monotonic())
        )
        if not ready:
            break
        try:
            results[ready[0]] = ray.get(ready[0])
            continue
        except ray.exceptions.RayTaskError as raised:
            error = error or raised.cause
        except ray.exceptions.RayError as died:
            death = str(died).strip().splitlines()[-1]
            break
        until = until or time.monotonic() + GRACE_SECONDS
    if death is not None:
        return [], death
    if error is not None:
        raise error from None
    return [results[reference] for reference in references], None
