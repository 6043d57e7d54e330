"""Independent items processed by a pool of Ray actors, any of which may die and be replaced."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tasks.execution.resource_requests import ResourceRequest

Item = TypeVar("Item")
Seen = TypeVar("Seen", contravariant=True)

DEATHS = 3
"""Number of deaths at one item after which the item, or the machine, is to blame."""
POLL_SECONDS = 0.5


class Watch(Protocol[Seen]):
    """Observes the work: reads its progress and reports it."""

    def sign(self, item: Seen) -> object:
        """A value that changes as the work on the item proceeds."""

    def show(self) -> object:
        """Show the progress. Called while waiting."""

    def say(self, text: str) -> object:
        """Report a death."""


@dataclass
class _ActorSlot:
    """An actor and the index of its item; None until it has started, which may take long."""

    actor: Any
    item: int | None = None
    wedged: bool = False
    sign: object = None
    until: float = math.inf


class ActorPool(Generic[Item]):
    """A pool of Ray actors that work on items.

    An actor is kept from item to item. When one dies, another actor starts its item again. The
    actors also end with this process, however it ends, because it owns them.

    `slots` maps the reference that an actor's result will arrive at to its slot. `todo` holds the
    indices of the items that no actor is working on.

    **Arguments:**
        make: `make(start)` calls `start(Class, *arguments)` to create an actor.
        call: `call(actor, item)` makes the remote call.
        request: What each actor requests of Ray.
        count: Number of actors.
        deadline: Seconds without a new sign of its item after which an actor counts as wedged and
            is killed.
        keep: Whether an actor that has no item left stays for the next `map`; otherwise it is
            killed, to free what it holds.
    """

    def __init__(
        self,
        make: Callable[[Callable[..., Any]], Any],
        call: Callable[[Any, Item], Any],
        request: ResourceRequest,
        count: int,
        deadline: float,
        keep: bool = False,
    ) -> None:
        self.make, self.call, self.request, self.count, self.deadline, self.keep = (
            make,
            call,
            request,
            count,
            deadline,
            keep,
        )
        self.items: Sequence[Item] = ()
        self.todo: deque[int] = deque()
        self.slots: dict[Any, _ActorSlot] = {}
        self.idle: list[Any] = []
        self.deaths: Counter[int | None] = Counter()

    def map(self, items: Sequence[Item], watch: Watch[Item]) -> Iterator[tuple[Item, Any]]:
        """Each item with its result, as they are finished. Closing the iterator kills the actors.

        **Arguments:**
            watch: Says whether an item advances, and reports deaths.
        **Raises:** RuntimeError if actors die `DEATHS` times at one item. An exception of an actor
            is raised unchanged.
        """
        self.items, self.watch, self.todo, self.deaths = (
            items,
            watch,
            deque(range(len(items))),
            Counter(),
        )
        complete = False
        try:
            while self.todo or self.working:
                yield from self.results()
                watch.show()
            complete = True
        finally:
            if not (complete and self.keep):
                self.close()

    def close(self) -> None:
        """Kill the actors."""
        import ray

        for actor in [*(slot.actor for slot in self.slots.values()), *self.idle]:
            ray.kill(actor)
        self.slots.clear()
        self.idle.clear()

    @property
    def working(self) -> list[tuple[_ActorSlot, Item]]:
        return [
            (slot, self.items[slot.item]) for slot in self.slots.values() if slot.item is not None
        ]

    def results(self) -> list[tuple[Item, Any]]:
        """The results that arrive within `POLL_SECONDS`.

        Actors that became free get their next item before this returns.
        """
        import ray

        while self.idle and self.todo:
            self._assign(self.idle.pop())
        while len(self.slots) < min(self.count, len(self.todo) + len(self.working)):
            actor = self.make(self._start)
            self.slots[actor.__ray_ready__.remote()] = _ActorSlot(actor)
        ready, _ = ray.wait(list(self.slots), timeout=POLL_SECONDS)
        results: list[tuple[Item, Any]] = []
        for reference in ready:
            slot = self.slots.pop(reference)
            try:
                result = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                ray.kill(slot.actor)
                raise error.cause from None
            except ray.exceptions.RayError as error:
                self._record_death(slot, str(error).strip())
                continue
            if slot.item is not None:
                results.append((self.items[slot.item], result))
            self._assign(slot.actor)
        self._kill_wedged()
        return results

    def _start(self, kind: type[Any], *arguments: Any) -> Any:
        import ray

        return (
            ray.remote(kind)
            .options(**self.request.options, max_restarts=0, max_task_retries=0)
            .remote(*arguments)
        )

    def _assign(self, actor: Any) -> None:
        """Give the actor the next item; without one it becomes idle, or is killed."""
        import ray

        if not self.todo:
            if self.keep:
                self.idle.append(actor)
            else:
                ray.kill(actor)
            return
        number = self.todo.popleft()
        item = self.items[number]
        slot = _ActorSlot(
            actor, number, sign=self.watch.sign(item), until=time.monotonic() + self.deadline
        )
        self.slots[self.call(actor, item)] = slot

    def _kill_wedged(self) -> None:
        import ray

        for slot, item in self.working:
            sign = self.watch.sign(item)
            if sign != slot.sign:
                slot.sign, slot.until = sign, time.monotonic() + self.deadline
            elif time.monotonic() > slot.until and not slot.wedged:
                slot.wedged = True
                ray.kill(slot.actor)  # its result is now an error, as after any other death

    def _record_death(self, slot: _ActorSlot, why: str) -> None:
        self.deaths[slot.item] += 1
        at = "its start" if slot.item is None else self.items[slot.item]
        if slot.item is not None:
            self.todo.appendleft(slot.item)
        how = (
            f"showed no sign of life for {self.deadline:g} s and was killed"
            if slot.wedged
            else f"died ({why.splitlines()[-1]})"
        )
        if self.deaths[slot.item] >= DEATHS:
            raise RuntimeError(
                f"{at}: a worker {how}; {DEATHS} have died at it. Finished work is kept: run "
                f"the same command again, with fewer"
                " runtime.samplers or runtime.scorers if memory ran out, or a longer "
                "runtime.sampler_deadline if they were only slow"
            )
        self.watch.say(f"a worker {how}; {at} is started again")
