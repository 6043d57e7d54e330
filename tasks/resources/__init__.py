"""What stages ask of the machine; only this package imports ray. One Ray for the whole process, started when the first stage needs it."""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from contextlib import ExitStack
from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from erpd_core.config import RuntimeConfig
from tasks.estimate import machine, machine_names
from tasks.home import home
from tasks.needs import Need, Node, needs, refuse_impossible
from tasks.resources.actors import over_actors
from tasks.resources.watch import NodeWatch, watch_own_node
from tasks.services import ray_address
from tasks.shares import Share, asked, local_cpus, sampler_share, scorer_share, stage_share, trainer_share
from tasks.stage import Stage
from tasks.stops import signals_kept

__all__ = [
    "Share",
    "StageRunner",
    "answer",
    "asked",
    "cluster_nodes",
    "ensure_ray",
    "in_task",
    "over_actors",
    "places",
    "sampler_share",
    "scorer_share",
    "stage_share",
    "start_ahead",
    "stop_ray",
    "submit",
    "trainer_share",
]

KNOCK_SECONDS = 10
"""Within these a cluster's head answers, if it is there."""
HALTED_SECONDS = 1.0
"""How soon who waits for an answer sees that work was halted."""
ACCELERATOR = "accelerator_type:"
_lock = threading.Lock()
_watches: list[NodeWatch] = []


def places(runtime: RuntimeConfig) -> int:
    """How many stages can be at work at once, at least one."""
    if runtime.ray == "off":
        return 1
    share = stage_share(runtime)
    if not (ray_address(runtime.ray_address) or share.gpus):
        return max(1, local_cpus(runtime) // share.cpus)
    nodes = cluster_nodes(runtime)
    stages = Need("stages", share, {}, count=sum(int(node.cpus) for node in nodes))
    return max(1, sum(map(stages.room, nodes)))


def ensure_ray(runtime: RuntimeConfig) -> None:
    """Connect to the runtime's cluster, or start a local one under ERPD_HOME. Idempotent; a start that fails is tried once more.

    **Raises:** ValueError: no cluster to connect to, or one that can never give what stages ask for.
    """
    import ray

    with _lock:
        if ray.is_initialized():
            return
        with signals_kept():
            if address := ray_address(runtime.ray_address):
                _connect(address)
            else:
                _start(runtime)
        _watches.append(watch_own_node())
    refuse_impossible(needs(runtime), cluster_nodes(runtime), runtime)


def _connect(address: str) -> None:
    import ray

    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would knock for minutes
            socket.create_connection((host, int(port)), KNOCK_SECONDS).close()
        which = {"_node_ip_address": node} if (node := os.environ.get("RAY_NODE_IP")) else {}  # of several on one machine
        ray.init(address, namespace="prefect", log_to_driver=False, configure_logging=False, **which)
    except Exception as error:
        ray.shutdown()
        raise ValueError(
            f"runtime.ray_address: cannot join the Ray cluster at {address} ({' '.join(str(error).split())[:200]}); see that it runs, that"
            " this machine is a node of it (docker/ray-node.sh driver) and that RAY_AUTH_TOKEN is its token"
        ) from error


def _start(runtime: RuntimeConfig) -> None:
    import ray

    for attempt in (1, 2):
        try:
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


def cluster_nodes(runtime: RuntimeConfig) -> list[Node]:
    """What each living node of the runtime's cluster offers."""
    import ray

    ensure_ray(runtime)
    return [_node(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _node(offers: Mapping[str, float]) -> Node:
    """Of GPUs Ray says the kind, and their memory is that of the table of machines."""
    kinds = [name.removeprefix(ACCELERATOR) for name in offers if name.startswith(ACCELERATOR)]
    known = [machine(kind, None).memory for kind in kinds if kind in machine_names()]
    return Node(offers.get("CPU", 0), offers.get("GPU", 0), offers.get("memory", math.inf), min(known, default=math.inf))


def start_ahead(runtime: RuntimeConfig) -> None:
    """Start Ray before the first stage needs it; of a local one, have a worker for each place import what stages need meanwhile.

    In the caller's thread, which must outlive Ray: Linux ends its processes with the thread that started them.
    """
    if runtime.ray == "off":
        return
    import ray

    ensure_ray(runtime)
    if ray_address(runtime.ray_address) is None:
        work = ray.remote(_import_for_stages).options(**stage_share(runtime).options)
        for _ in range(places(runtime)):
            work.remote()


def _import_for_stages() -> None:
    import tasks.engines.hf
    import tasks.train
    import tasks.verbs  # noqa: F401


def stop_ray() -> None:
    """Stop the local Ray of this process, or leave the cluster."""
    while _watches:
        _watches.pop().close()
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


class StageRunner(TaskRunner[Any]):
    """Runs each stage where its runtime says: on Ray, or in a thread of this process. Either starts at its first stage: a campaign whose
    every stage is cached starts none."""

    def __init__(self) -> None:
        super().__init__()
        self._started_with: dict[str, TaskRunner[Any]] = {}
        self._open = ExitStack()

    def duplicate(self) -> StageRunner:
        return StageRunner()

    def __exit__(self, *details: Any) -> None:
        self._open.__exit__(*details)
        self._started_with.clear()
        super().__exit__(*details)

    def submit(self, task: Any, parameters: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return self._runner(parameters["runtime"]).submit(task, parameters, *args, **kwargs)

    def _runner(self, runtime: RuntimeConfig) -> TaskRunner[Any]:
        if runtime.ray not in self._started_with:
            runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=1)
            if runtime.ray == "on":
                from prefect_ray.task_runners import RayTaskRunner

                ensure_ray(runtime)
                runner = RayTaskRunner()
            self._started_with[runtime.ray] = self._open.enter_context(runner)
        return self._started_with[runtime.ray]


def submit(task: Any, runtime: RuntimeConfig, stage: Stage[Any], *args: Any) -> Any:
    """Submit a Prefect task on a stage to the current flow's runner with what the stage asks; returns its future."""
    if runtime.ray == "off":
        return task.submit(stage, *args)
    from prefect_ray.context import remote_options

    options = {**asked(stage, runtime).options, **(_beside_the_flow(runtime) if stage.waits(runtime) else {})}
    # Ray would silently replay a task whose worker died while Prefect shows it Running for ever: retries are Prefect's.
    with remote_options(**options, max_retries=0):
        return task.submit(stage, *args)


def answer(future: Any, halted: Callable[[], bool]) -> Any:
    """Wait for what `submit` returned; its answer, or the error it raised. Raises KeyboardInterrupt once `halted`: of a Ray that is
    stopped no answer comes.

    Signals are heard meanwhile: `ray.get` drops what a handler raises, unless that is a KeyboardInterrupt.
    """
    work = future.wrapped_future
    working = [work if isinstance(work, futures.Future) else work.future()]
    while not futures.wait(working, timeout=HALTED_SECONDS).done:
        if halted():
            raise KeyboardInterrupt
    return future.result()


def _beside_the_flow(runtime: RuntimeConfig) -> dict[str, Any]:
    """What asks for nothing Ray puts on any node, the cluster's head too, which may not even see ERPD_HOME: this keeps it on our own."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ensure_ray(runtime)
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)}


def in_task(work: Callable[..., Any], runtime: RuntimeConfig, *args: Any) -> Any:
    """`work(*args)` in a Ray task of its own that asks for a stage's share; its answer, or the error it raised."""
    import ray

    ensure_ray(runtime)
    try:
        return ray.get(ray.remote(work).options(**stage_share(runtime).options, max_retries=0).remote(*args))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
