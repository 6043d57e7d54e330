"""Independent items worked off by actors, any of which may die and be replaced."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tasks.execution.requests import ResourceRequest

Item = TypeVar("Item")
Seen = TypeVar("Seen", contravariant=True)

DEATHS = 3
"""Deaths at one item after which the item, or the machine, is to blame."""
POLL_SECONDS = 0.5


class Watch(Protocol[Seen]):
    """Whoever looks at the work from outside."""

    def sign(self, item: Seen) -> object:
        """A value that changes as the item gets on."""

    def show(self) -> object:
        """Called while waiting."""

    def say(self, text: str) -> object:
        """Told of a death."""


def map_over_actors(
    make: Callable[[Callable[..., Any]], Any],
    call: Callable[[Any, Item], Any],
    items: Sequence[Item],
    watch: Watch[Item],
    share: ResourceRequest,
    count: int,
    deadline: float,
) -> Iterator[tuple[Item, Any]]:
    """Each item with its answer, as they come, worked out by `count` actors that stay warm from
    item to item.

    An actor that dies loses the item in hand, which another begins again. One whose item shows no
    new sign for `deadline` seconds is wedged, and killed. Close the iterator, and the actors are
    gone; they go with this process too, however it ends, for it owns them.

    **Arguments:** `make(start)` calls `start(Class, *arguments)` for a new actor; `call(actor,
    item)` makes the remote call.

    Raises RuntimeError when the actors at one item have died `DEATHS` times, and what an actor
    raised as it was raised.
    """
    import ray

    def start(kind: type[Any], *arguments: Any) -> Any:
        return (
            ray.remote(kind)
            .options(**share.options, max_restarts=0, max_task_retries=0)
            .remote(*arguments)
        )

    crew = _ActorPool(lambda: make(start), call, items, watch, count, deadline)
    try:
        while crew.todo or crew.working:
            yield from crew.answers()
            watch.show()
    finally:
        for hand in crew.hands.values():
            ray.kill(hand.actor)


@dataclass
class _ActorSlot:
    """An actor and the item it is at: none before it has started, for it may wait long for room."""

    actor: Any
    item: int | None = None
    wedged: bool = False
    sign: object = None
    until: float = math.inf


class _ActorPool(Generic[Item]):
    """The actors of one `map_over_actors`: `hands` by the reference each is awaited by, `todo` the
    items nobody has in hand.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        call: Callable[[Any, Item], Any],
        items: Sequence[Item],
        watch: Watch[Item],
        count: int,
        deadline: float,
    ) -> None:
        self.make, self.call, self.items, self.watch, self.count, self.deadline = (
            make,
            call,
            items,
            watch,
            count,
            deadline,
        )
        self.todo = deque(range(len(items)))
        self.hands: dict[Any, _ActorSlot] = {}
        self.deaths: Counter[int | None] = Counter()

    @property
    def working(self) -> list[tuple[_ActorSlot, Item]]:
        return [
            (hand, self.items[hand.item]) for hand in self.hands.values() if hand.item is not None
        ]

    def answers(self) -> list[tuple[Item, Any]]:
        """What has come after waiting for a moment. Hands that became free have their next item
        before anyone looks at these answers.
        """
        import ray

        while len(self.hands) < min(self.count, len(self.todo) + len(self.working)):
            actor = self.make()
            self.hands[actor.__ray_ready__.remote()] = _ActorSlot(actor)
        ready, _ = ray.wait(list(self.hands), timeout=POLL_SECONDS)
        answers: list[tuple[Item, Any]] = []
        for reference in ready:
            hand = self.hands.pop(reference)
            try:
                answer = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                ray.kill(hand.actor)
                raise error.cause from None
            except ray.exceptions.RayError as error:
                self._bury(hand, str(error).strip())
                continue
            if hand.item is not None:
                answers.append((self.items[hand.item], answer))
            self._give(hand.actor)
        self._find_wedged()
        return answers

    def _give(self, actor: Any) -> None:
        """The next item; or nothing is left, and what the actor holds is free for others."""
        import ray

        if not self.todo:
            ray.kill(actor)
            return
        number = self.todo.popleft()
        item = self.items[number]
        hand = _ActorSlot(
            actor, number, sign=self.watch.sign(item), until=time.monotonic() + self.deadline
        )
        self.hands[self.call(actor, item)] = hand

    def _find_wedged(self) -> None:
        import ray

        for hand, item in self.working:
            sign = self.watch.sign(item)
            if sign != hand.sign:
                hand.sign, hand.until = sign, time.monotonic() + self.deadline
            elif time.monotonic() > hand.until and not hand.wedged:
                hand.wedged = True
                ray.kill(hand.actor)  # so its answer is an error, as if it had died by itself

    def _bury(self, hand: _ActorSlot, why: str) -> None:
        self.deaths[hand.item] += 1
        at = "its start" if hand.item is None else self.items[hand.item]
        if hand.item is not None:
            self.todo.appendleft(hand.item)
        how = (
            f"showed no sign of life for {self.deadline:g} s and was killed"
            if hand.wedged
            else f"died ({why.splitlines()[-1]})"
        )
        if self.deaths[hand.item] >= DEATHS:
            raise RuntimeError(
                f"{at}: a worker {how}; {DEATHS} have died at it. What is finished is kept: run "
                f"the same command again, with fewer"
                " runtime.samplers or runtime.scorers if memory ran out, or a longer "
                "runtime.sampler_deadline if they were only slow"
            )
        self.watch.say(f"a worker {how}; {at} is begun again")
