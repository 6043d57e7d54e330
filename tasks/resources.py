"""What stages ask of the machine, and the only ray import. One Ray for the whole process, started when the first stage needs it."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from erpd_core.config import RuntimeConfig
from tasks.home import home
from tasks.shares import Share, asked, local_cpus, sampler_share, stage_share
from tasks.stage import Stage

Item = TypeVar("Item")
Seen = TypeVar("Seen", contravariant=True)
_lock = threading.Lock()


def places(runtime: RuntimeConfig) -> int:
    """How many stages can be at work at once, at least one."""
    if runtime.ray == "off":
        return 1
    share = stage_share(runtime)
    if not (runtime.ray_address or share.gpus):
        return max(1, local_cpus(runtime) // share.cpus)
    import ray

    ensure_ray(runtime)
    has = ray.cluster_resources()
    counts = [has.get(name, 0) / amount for name, amount in (("CPU", share.cpus), ("GPU", share.gpus)) if amount]
    return max(1, int(min(counts)))


def ensure_ray(runtime: RuntimeConfig) -> None:
    """Connect to the runtime's cluster, or start a local one under ERPD_HOME. Idempotent; a start that fails is tried once more."""
    import ray

    with _lock:
        if ray.is_initialized():
            return
        for attempt in (1, 2):
            try:
                if runtime.ray_address:
                    ray.init(runtime.ray_address, namespace="prefect", log_to_driver=False, configure_logging=False)
                else:
                    ray.init(
                        namespace="prefect",
                        num_cpus=local_cpus(runtime),
                        include_dashboard=False,
                        log_to_driver=False,
                        configure_logging=False,
                        object_store_memory=256 << 20,  # references travel, tensors do not
                        _temp_dir=str(home() / "ray"),
                        _node_ip_address="127.0.0.1",
                    )
                break
            except Exception:  # about one local start in ten times out on a busy machine (ray#65983)
                ray.shutdown()
                if attempt == 2:
                    raise
        _refuse_impossible(ray, runtime)


def _refuse_impossible(ray: Any, runtime: RuntimeConfig) -> None:
    """A task that asks for more than the cluster has would wait for ever: say what is missing instead."""
    has = ray.cluster_resources()
    shares = {"a stage": stage_share(runtime)} | ({"a sampler": sampler_share(runtime)} if runtime.samples_apart else {})
    for who, share in shares.items():
        for name, amount in (("CPU", share.cpus), ("GPU", share.gpus)):
            if amount > has.get(name, 0):
                raise ValueError(
                    f"runtime: {who} asks for {amount:g} {name}, the Ray cluster has {has.get(name, 0):g}; lower it or add nodes"
                )


def start_ahead(runtime: RuntimeConfig) -> None:
    """Start Ray before the first stage needs it; of a local one, have a worker for each place import what stages need meanwhile.

    In the caller's thread, which must outlive Ray: Linux ends its processes with the thread that started them.
    """
    if runtime.ray == "off":
        return
    import ray

    ensure_ray(runtime)
    if runtime.ray_address is None:
        work = ray.remote(_import_for_stages).options(**stage_share(runtime).options)
        for _ in range(places(runtime)):
            work.remote()


def _import_for_stages() -> None:
    import tasks.engines.hf
    import tasks.train
    import tasks.verbs  # noqa: F401


def stop_ray() -> None:
    """Stop the local Ray of this process, or leave the cluster."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def task_runner(runtime: RuntimeConfig) -> TaskRunner[Any]:
    """Threads, or Ray."""
    if runtime.ray == "off":
        return ThreadPoolTaskRunner(max_workers=1)
    return _lazy_ray_runner(runtime)


def submit(task: Any, runtime: RuntimeConfig, stage: Stage[Any], *args: Any) -> Any:
    """Submit a Prefect task on a stage to the current flow's runner with what the stage asks; returns its future."""
    if runtime.ray == "off":
        return task.submit(stage, *args)
    from prefect_ray.context import remote_options

    # Ray would silently replay a task whose worker died while Prefect shows it Running for ever: retries are Prefect's.
    with remote_options(**asked(stage, runtime).options, max_retries=0):
        return task.submit(stage, *args)


def in_task(work: Callable[..., Any], runtime: RuntimeConfig, *args: Any) -> Any:
    """`work(*args)` in a Ray task of its own that asks for a stage's share; its answer, or the error it raised."""
    import ray

    ensure_ray(runtime)
    try:
        return ray.get(ray.remote(work).options(**stage_share(runtime).options, max_retries=0).remote(*args))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def _lazy_ray_runner(runtime: RuntimeConfig) -> TaskRunner[Any]:
    from prefect_ray.task_runners import RayTaskRunner

    class LazyRayTaskRunner(RayTaskRunner):
        """A RayTaskRunner that starts Ray at its first task: a campaign whose every stage is cached never does."""

        def __enter__(self) -> Any:
            return TaskRunner.__enter__(self)

        def __exit__(self, *details: Any) -> None:
            TaskRunner.__exit__(self, *details)

        def submit(self, *args: Any, **kwargs: Any) -> Any:
            ensure_ray(runtime)
            return super().submit(*args, **kwargs)

    return LazyRayTaskRunner()


# ---------------------------------------------------------------------------------------------------------------------- actors

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


def over_actors(
    make: Callable[[Callable[..., Any]], Any],
    call: Callable[[Any, Item], Any],
    items: Sequence[Item],
    watch: Watch[Item],
    share: Share,
    count: int,
    deadline: float,
) -> Iterator[tuple[Item, Any]]:
    """Each item with its answer, as they come, worked out by `count` actors that stay warm from item to item.

    An actor that dies loses the item in hand, which another begins again. One whose item shows no new sign for `deadline` seconds is
    wedged, and killed. Close the iterator, and the actors are gone; they go with this process too, however it ends, for it owns them.

    **Arguments:** `make(start)` calls `start(Class, *arguments)` for a new actor; `call(actor, item)` makes the remote call.

    Raises RuntimeError when the actors at one item have died `DEATHS` times, and what an actor raised as it was raised.
    """
    import ray

    def start(kind: type[Any], *arguments: Any) -> Any:
        return ray.remote(kind).options(**share.options, max_restarts=0, max_task_retries=0).remote(*arguments)

    crew = _Crew(lambda: make(start), call, items, watch, count, deadline)
    try:
        while crew.todo or crew.working:
            yield from crew.answers()
            watch.show()
    finally:
        for hand in crew.hands.values():
            ray.kill(hand.actor)


@dataclass
class _Hand:
    """An actor and the item it is at: none before it has started, for it may wait long for room."""

    actor: Any
    item: int | None = None
    wedged: bool = False
    sign: object = None
    until: float = math.inf


class _Crew(Generic[Item]):
    """The actors of one `over_actors`: `hands` by the reference each is awaited by, `todo` the items nobody has in hand."""

    def __init__(
        self,
        make: Callable[[], Any],
        call: Callable[[Any, Item], Any],
        items: Sequence[Item],
        watch: Watch[Item],
        count: int,
        deadline: float,
    ) -> None:
        self.make, self.call, self.items, self.watch, self.count, self.deadline = make, call, items, watch, count, deadline
        self.todo = deque(range(len(items)))
        self.hands: dict[Any, _Hand] = {}
        self.deaths: Counter[int | None] = Counter()

    @property
    def working(self) -> list[tuple[_Hand, Item]]:
        return [(hand, self.items[hand.item]) for hand in self.hands.values() if hand.item is not None]

    def answers(self) -> list[tuple[Item, Any]]:
        """What has come after waiting for a moment. Hands that became free have their next item before anyone looks at these answers."""
        import ray

        while len(self.hands) < min(self.count, len(self.todo) + len(self.working)):
            actor = self.make()
            self.hands[actor.__ray_ready__.remote()] = _Hand(actor)
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
        hand = _Hand(actor, number, sign=self.watch.sign(item), until=time.monotonic() + self.deadline)
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

    def _bury(self, hand: _Hand, why: str) -> None:
        self.deaths[hand.item] += 1
        at = "its start" if hand.item is None else self.items[hand.item]
        if hand.item is not None:
            self.todo.appendleft(hand.item)
        how = f"showed no sign of life for {self.deadline:g} s and was killed" if hand.wedged else f"died ({why.splitlines()[-1]})"
        if self.deaths[hand.item] >= DEATHS:
            raise RuntimeError(
                f"{at}: a worker {how}; {DEATHS} have died at it. What is finished is kept: run the same command again, with fewer"
                " runtime.samplers if memory ran out, or a longer runtime.sampler_deadline if they were only slow"
            )
        self.watch.say(f"a worker {how}; {at} is begun again")
