"""Actors that work on one thing together: they start together, and when one dies all begin again
from what they had made durable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tasks.execution.actors import DEATHS
from tasks.execution.requests import ResourceRequest

GRACE_SECONDS = 15.0
"""How long after one's trouble the others are waited for: a death shows in others' errors too,
and may show there first.
"""


def run_gang(
    name: str,
    make: Callable[[Callable[..., Any], str], list[Any]],
    call: Callable[[Any], Any],
    share: ResourceRequest,
    count: int,
    sign: Callable[[], object],
    say: Callable[[str], object],
) -> list[Any]:
    """The answers of `count` actors, in their order.

    Their room is one placement group, as near to each other as they fit: of two gangs that wait for
    room, none holds half of it. It has a `name`, so that what an earlier process left behind when
    it was killed is given back first.

    **Arguments:** `make(start, address)` calls `start(Class, *arguments)` for each actor, `address`
    being that of the first one's machine; `call(actor)` makes the remote call; `sign` a value that
    changes as they get on; `say` is told of deaths.

    Raises RuntimeError when one has died `DEATHS` times without a new sign, and what an actor
    raised as it was raised.
    """
    deaths, seen = 0, sign()
    while True:
        with _room(name, share, count) as room, _actors(make, room) as actors:
            answers, death = _answers([call(actor) for actor in actors])
        if death is None:
            return answers
        deaths, seen = (deaths + 1, seen) if sign() == seen else (1, sign())
        if deaths >= DEATHS:
            raise RuntimeError(
                f"{name}: a worker died ({death}); {DEATHS} have died at the same place. What is "
                f"finished is kept: run the same command"
                " again, with more memory for each (fewer runtime.trainers to a machine, a "
                "smaller runtime.token_budget, runtime.recompute)"
            )
        say(f"a worker died ({death}); all go on from the last checkpoint")


@dataclass(frozen=True)
class _Room:
    """A placement group that is there: a bundle for each actor."""

    group: Any
    share: ResourceRequest

    def options(self, rank: int) -> dict[str, Any]:
        """What puts the actor of a rank into its bundle."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return {
            **self.share.options,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self.group, rank),
        }

    @property
    def address(self) -> str:
        """Of the machine with the first bundle."""
        import ray

        first = ray.util.placement_group_table(self.group)["bundles_to_node_id"][0]
        address: str = next(
            node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == first
        )
        return address


@contextmanager
def _room(name: str, share: ResourceRequest, count: int) -> Iterator[_Room]:
    import ray

    with suppress(ValueError):  # there is none
        ray.util.remove_placement_group(ray.util.get_placement_group(name))
    bundle = {"CPU": share.cpus} | ({"GPU": share.gpus} if share.gpus else {})
    group = ray.util.placement_group([bundle] * count, strategy="PACK", name=name)
    try:
        while not group.wait(60):
            pass
        yield _Room(group, share)
    finally:
        ray.util.remove_placement_group(group)


@contextmanager
def _actors(
    make: Callable[[Callable[..., Any], str], list[Any]], room: _Room
) -> Iterator[list[Any]]:
    import ray

    started: list[Any] = []

    def start(kind: type[Any], *arguments: Any) -> Any:
        options = {**room.options(len(started)), "max_restarts": 0, "max_task_retries": 0}
        started.append(ray.remote(kind).options(**options).remote(*arguments))
        return started[-1]

    try:
        yield make(start, room.address)
    finally:
        for actor in started:
            ray.kill(actor)


def _answers(references: list[Any]) -> tuple[list[Any], str | None]:
    """All answers; or none, and how one of them died. Raises what one raised, when none died."""
    import ray

    answers: dict[Any, Any] = {}
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
            answers[ready[0]] = ray.get(ready[0])
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
    return [answers[reference] for reference in references], None
