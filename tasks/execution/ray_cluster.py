"""The Ray cluster of this process: joined, or started locally, when the first stage needs it.

Only `tasks.execution` imports Ray.
"""

from __future__ import annotations

import importlib
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from erpd_core.config import RuntimeConfig
from tasks.execution.capacity import Node, Requirement, refuse_impossible, requirements
from tasks.execution.machines import machine, machine_names
from tasks.execution.node_watch import NodeWatch, watch_own_node
from tasks.execution.resource_requests import local_cpus, stage_request
from tasks.host.home import home
from tasks.host.imports import fast_imports
from tasks.host.services import ray_address
from tasks.host.shutdown import signals_kept

CONNECT_SECONDS = 10
"""Seconds within which the head of a running cluster accepts a connection."""
JOIN_SECONDS = 10.0
"""Seconds within which nodes that have just started join a running cluster."""
ACCELERATOR = "accelerator_type:"
"""Prefix of the Ray resource that names a node's kind of GPU."""
_lock = threading.Lock()
_watches: list[NodeWatch] = []


def max_concurrent_stages(runtime: RuntimeConfig) -> int:
    """How many stages can run at the same time; at least one."""
    if runtime.ray == "off":
        return 1
    request = stage_request(runtime)
    if not (ray_address(runtime.ray_address) or request.gpus):
        return max(1, local_cpus(runtime) // request.cpus)
    nodes = cluster_nodes(runtime)
    stages = Requirement("stages", request, {}, count=sum(int(node.cpus) for node in nodes))
    return max(1, sum(map(stages.copies_that_fit, nodes)))


def ensure_ray(runtime: RuntimeConfig) -> None:
    """Connect to the runtime's cluster, or start a local one under ERPD_HOME.

    Idempotent. A start that fails is tried once more.

    **Raises:** ValueError if the cluster cannot be joined, or can never provide what stages
        request.
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
    _wait_for_nodes(runtime, JOIN_SECONDS if address else 0.0)


def _wait_for_nodes(runtime: RuntimeConfig, patience: float) -> None:
    """Wait until the nodes can provide what stages request.

    **Arguments:**
        patience: Seconds that nodes may take to join. A node that has just started answers before
            its cluster lists it.
    **Raises:** ValueError if they cannot provide it by then.
    """
    until = time.monotonic() + patience
    while True:
        try:
            return refuse_impossible(requirements(runtime), cluster_nodes(runtime), runtime)
        except ValueError:
            if time.monotonic() >= until:
                raise
        time.sleep(0.5)


def _connect(address: str) -> None:
    import ray

    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself would retry for minutes
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        # the own node, if several run on this machine
        which = {"_node_ip_address": node} if (node := os.environ.get("RAY_NODE_IP")) else {}
        ray.init(
            address, namespace="prefect", log_to_driver=False, configure_logging=False, **which
        )
    except Exception as error:
        ray.shutdown()
        raise ValueError(
            f"runtime.ray_address: cannot join the Ray cluster at {address} "
            f"({' '.join(str(error).split())[:200]}); see that it runs, that"
            " this machine is a node of it (docker/ray-node.sh driver) and that RAY_AUTH_TOKEN is "
            "its token"
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
                _system_config={"worker_niceness": runtime.niceness},
                _temp_dir=str(home() / "ray"),
                _node_ip_address="127.0.0.1",
            )
            break
        except Exception:  # on a busy machine one local start in ten times out (ray#65983)
            ray.shutdown()
            if attempt == 2:
                raise


def cluster_nodes(runtime: RuntimeConfig) -> list[Node]:
    """What each living node of the runtime's cluster offers."""
    import ray

    ensure_ray(runtime)
    return [_node(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _node(offers: Mapping[str, float]) -> Node:
    """A node from its Ray resources; Ray names the kind of GPU, the machine table its memory."""
    kinds = [name.removeprefix(ACCELERATOR) for name in offers if name.startswith(ACCELERATOR)]
    known = [machine(kind, None).memory for kind in kinds if kind in machine_names()]
    return Node(
        offers.get("CPU", 0),
        offers.get("GPU", 0),
        offers.get("memory", math.inf),
        min(known, default=math.inf),
    )


def start_with_imports(runtime: RuntimeConfig, modules: Sequence[str]) -> None:
    """Start Ray before the first stage needs it.

    On a local Ray, half of the workers that can run at the same time import `modules` in the
    background. The others import them while the first stages run: all at once, they would only
    take the cores from each other. The calling thread must outlive Ray: Linux ends Ray's processes
    with the thread that started them.
    """
    if runtime.ray == "off":
        return
    import ray

    ensure_ray(runtime)
    if ray_address(runtime.ray_address) is None:
        work = ray.remote(_import_all).options(**stage_request(runtime).options)
        for _ in range((max_concurrent_stages(runtime) + 1) // 2):
            work.remote(modules)


def _import_all(modules: Sequence[str]) -> None:
    with fast_imports():
        for name in modules:
            importlib.import_module(name)


def stop_ray() -> None:
    """Stop the local Ray of this process, or leave the cluster."""
    while _watches:
        _watches.pop().close()
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
