"""Where a stage runs, what it holds there, and what the machines offer: for the timeline."""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter
from typing import Any

from erpd_core.config import RuntimeConfig
from tasks.execution.resource_requests import ResourceRequest, local_cpus


def placement(request: ResourceRequest, runtime: RuntimeConfig) -> dict[str, Any]:
    """The placement of a stage that runs in this process, for its event.

    **Arguments:**
        request: What the stage holds while it runs.
    **Returns:** `node`, the name of the machine; `pid`; `cpus` and `gpus`, what is held; `nodes`,
        which maps the name of each node of the cluster, or of this machine, to the CPUs and GPUs
        that it offers.
    """
    node, nodes = _ray_nodes() or _this_machine(request, runtime)
    held = {"cpus": request.cpus, "gpus": request.gpus}
    return {"node": node, "pid": os.getpid(), **held, "nodes": nodes}


Nodes = dict[str, tuple[float, float]]
"""Name of a node -> its CPUs and GPUs."""


def _this_machine(request: ResourceRequest, runtime: RuntimeConfig) -> tuple[str, Nodes]:
    """Without Ray, GPUs are not counted: a stage is taken to have all there are."""
    name = socket.gethostname()
    return name, {name: (local_cpus(runtime), request.gpus)}


def _ray_nodes() -> tuple[str, Nodes] | None:
    """The name of the node of this process, and all living nodes; None outside Ray.

    Nodes are named by their hosts. Several nodes on one host also have the beginning of their ids.
    No stage fails because of this function.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    try:
        own = ray.get_runtime_context().get_node_id()
        living = [node for node in ray.nodes() if node["Alive"]]
    except Exception:
        return None
    hosts = Counter(node["NodeManagerHostname"] for node in living)
    names, nodes = {}, {}
    for node in living:
        host, id, offers = node["NodeManagerHostname"], node["NodeID"], node["Resources"]
        names[id] = host if hosts[host] == 1 else f"{host}/{id[:6]}"
        nodes[names[id]] = offers.get("CPU", 0.0), offers.get("GPU", 0.0)
    return names.get(own, socket.gethostname()), nodes
