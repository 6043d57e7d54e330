"""The capacity that the stages of a campaign require, and a check that a cluster can provide it.

Ray lets a task wait indefinitely if it requests more than any node has. Trainers, which start
together, also wait if only one of them does not fit.

Requirements are computed from the config. Memory is counted if the model's shape is known, and only
the bytes that are certain: weights, and for training also gradients and AdamW's moments, but never
activations.

Does not import Prefect or Ray, and imports torch only if GPUs matter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import psutil

from erpd_core.config import RuntimeConfig
from erpd_core.estimates.memory import width
from tasks.execution.resource_requests import (
    ResourceRequest,
    local_cpus,
    sampler_request,
    scorer_request,
    stage_request,
    trainer_request,
)
from tasks.host.services import ray_address

Dimension = Literal["CPU", "GPU", "memory"]
DIMENSIONS: tuple[Dimension, ...] = ("CPU", "GPU", "memory")
TRAINED = 4
"""Numbers that training stores for each weight: itself, its gradient, AdamW's two moments."""


@dataclass(frozen=True)
class Node:
    """What one machine offers.

    **Example:** `Node(cpus=96, gpus=8, memory=1e12, gpu_memory=80e9)`
    """

    cpus: float
    gpus: float
    memory: float = math.inf
    """Host memory, bytes; infinite if unknown."""
    gpu_memory: float = math.inf
    """Memory of one of its GPUs, bytes; infinite if unknown."""


class Remedy(NamedTuple):
    """How the config can request less: the key to look at, and what to do."""

    key: str
    how: str


@dataclass(frozen=True)
class Requirement:
    """A piece of work that must fit on the nodes. If it does not, the campaign never ends.

    **Example:** `Requirement("trainers", ResourceRequest(1, 1.0), {"GPU":
    Remedy("runtime.trainers", "lower it")}, bytes_each=35e9, memory_of="gpu", count=8)`
    """

    name: str
    request: ResourceRequest
    remedies: dict[Dimension, Remedy]
    """How the config can request less of a dimension."""
    bytes_each: float = 0.0
    """Lower bound of the memory that each copy needs, bytes; 0 if unknown."""
    memory_of: Literal["host", "gpu", "either"] = "host"
    """Where this memory is. `either`: no GPU is requested, but a GPU of the node would be used."""
    count: int = 1
    """Number of copies that start together. Each runs on one node; they may share a node or not."""

    def copies_that_fit(self, node: Node) -> int:
        """How many copies fit on the node, at most `count`."""
        return min(self._fit(dimension, node) for dimension in DIMENSIONS)

    def lacking(self, nodes: Sequence[Node]) -> list[Dimension]:
        """The dimensions of which the nodes have too little; empty if all copies fit.

        If the nodes have enough of each dimension, but no node has enough of all of them: every
        dimension that is required.
        """
        if sum(map(self.copies_that_fit, nodes)) >= self.count:
            return []
        short = [
            dimension
            for dimension in DIMENSIONS
            if sum(self._fit(dimension, node) for node in nodes) < self.count
        ]
        return short or [dimension for dimension in DIMENSIONS if self._amount(dimension)]

    def _amount(self, dimension: Dimension) -> float:
        return {"CPU": self.request.cpus, "GPU": self.request.gpus, "memory": self.bytes_each}[
            dimension
        ]

    def _fit(self, dimension: Dimension, node: Node) -> int:
        if dimension == "memory" and self.memory_of == "gpu":
            # every copy has its own GPU or part of one
            enough = self.bytes_each <= node.gpu_memory * self.request.gpus
            return self.count if not node.gpus or enough else 0
        host = math.inf if self.memory_of == "either" and node.gpus else node.memory
        amount, has = (
            self._amount(dimension),
            {"CPU": node.cpus, "GPU": node.gpus, "memory": host}[dimension],
        )
        return (
            self.count
            if not amount or math.isinf(has)
            else min(self.count, math.floor(has / amount + 1e-6))
        )


# ------------------------------------------------------------------------------------- requirements


def requirements(
    runtime: RuntimeConfig, weights: float = 0, alone: Sequence[str] = ()
) -> list[Requirement]:
    """What stages that run a model require.

    **Arguments:**
        weights: Number of the model's weights; 0 if unknown.
        alone: Names of trainings that run in their stage's own process, whatever
            `runtime.trainers` is.
    """
    return list(_requirements(runtime, weights, alone))


def _requirements(
    runtime: RuntimeConfig, weights: float, alone: Sequence[str]
) -> Iterator[Requirement]:
    stage, once = stage_request(runtime), width(runtime.dtype) * weights
    own = _lower("cpus", "gpus") | {"memory": Remedy("model", "take a smaller model")}
    more: dict[Dimension, Remedy] = {
        "memory": Remedy("runtime.trainers", "raise runtime.trainers, which share it")
    }
    yield Requirement("drawing problems", ResourceRequest(1, 0.0), {})
    if runtime.samples_on_actors:
        request = sampler_request(runtime)
        remedies = own | _lower("sampler_cpus", "sampler_gpus")
        yield Requirement("a sampler", request, remedies, once, _memory_of(request, runtime))
    else:
        yield Requirement("sampling", stage, own, once, _memory_of(stage, runtime))
    request = scorer_request(runtime) if runtime.scores_on_actors else stage
    yield Requirement(
        "a scorer" if runtime.scores_on_actors else "scoring",
        request,
        own,
        once,
        _memory_of(request, runtime),
    )
    if runtime.trains_on_actors:
        request = trainer_request(runtime)
        fewer = "lower runtime.trainers or runtime."
        remedies = {
            "CPU": Remedy("runtime.trainers", f"{fewer}trainer_cpus"),
            "GPU": Remedy("runtime.trainers", f"{fewer}trainer_gpus"),
            **more,
        }
        # sharded weights are float32, whatever runtime.dtype is
        bytes_each = TRAINED * width("float32") * weights / runtime.trainers
        yield Requirement(
            "trainers",
            request,
            remedies,
            bytes_each,
            "host" if runtime.offload else _memory_of(request, runtime),
            runtime.trainers,
        )
    else:
        yield Requirement("training", stage, own | more, TRAINED * once, _memory_of(stage, runtime))
    for name in alone:
        yield Requirement(name, stage, own, TRAINED * once, _memory_of(stage, runtime))


def _lower(cpus: str, gpus: str) -> dict[Dimension, Remedy]:
    keys: tuple[tuple[Dimension, str], ...] = (("CPU", cpus), ("GPU", gpus))
    return {name: Remedy(f"runtime.{key}", f"lower runtime.{key}") for name, key in keys}


def _memory_of(
    request: ResourceRequest, runtime: RuntimeConfig
) -> Literal["host", "gpu", "either"]:
    return "gpu" if request.gpus else "host" if runtime.device == "cpu" else "either"


def this_node(required: Sequence[Requirement], runtime: RuntimeConfig) -> Node:
    """What a Ray that is started here would offer.

    GPUs are counted only if one is requested, or if the host alone is too small.
    """
    host = Node(local_cpus(runtime), 0.0, float(psutil.virtual_memory().total))
    if not any(requirement.request.gpus or requirement.lacking([host]) for requirement in required):
        return host
    import torch

    count = torch.cuda.device_count()
    least = min(
        (torch.cuda.get_device_properties(index).total_memory for index in range(count)),
        default=math.inf,
    )
    return Node(host.cpus, count, host.memory, least)


# -------------------------------------------------------------------------------------- the refusal


def refuse_impossible(
    required: Sequence[Requirement], nodes: Sequence[Node], runtime: RuntimeConfig
) -> None:
    """Refuse requirements that the nodes can never meet.

    **Raises:** ValueError for the first of them. It says what is required, what the nodes have, and
        what to change.
    """
    address = ray_address(runtime.ray_address)
    there = f"the Ray cluster at {address}" if address else "the Ray of this machine"
    elsewhere = "add nodes" if address else "set runtime.ray_address to a cluster that has it"
    for requirement in required:
        if lacking := requirement.lacking(nodes):
            remedies = [
                requirement.remedies[dimension]
                for dimension in lacking
                if dimension in requirement.remedies
            ]
            key = remedies[0].key if remedies else "runtime.ray_address"
            how = ", or ".join([*(remedy.how for remedy in remedies), elsewhere])
            raise ValueError(
                f"{key}: {_demand(requirement, nodes)}, and {there} has "
                f"{_offer(requirement, nodes)}; {how}"
            )


def _demand(requirement: Requirement, nodes: Sequence[Node]) -> str:
    request = requirement.request
    amounts = [
        f"{amount:g} {name}"
        for name, amount in (("CPU", request.cpus), ("GPU", request.gpus))
        if amount
    ]
    if requirement.bytes_each and "memory" in requirement.lacking(nodes):
        whose = "its" if requirement.memory_of == "gpu" else "host"
        amounts.append(f"at least {_gb(requirement.bytes_each)} of {whose} memory")
    if requirement.count == 1:
        return f"{requirement.name} asks for {' and '.join(amounts)} on one node"
    room = sum(map(requirement.copies_that_fit, nodes))
    return (
        f"{requirement.count} {requirement.name}, which start together, ask for "
        f"{' and '.join(amounts)} each: there is room for {room}"
    )


def _offer(requirement: Requirement, nodes: Sequence[Node]) -> str:
    """The nodes as text, the largest first; equal ones are counted."""
    memory = "memory" in requirement.lacking(nodes)
    on_gpu = requirement.memory_of == "gpu"

    def describe(node: Node) -> str:
        host = f" {_gb(node.memory)}" if memory and not on_gpu else ""
        each = f" of {_gb(node.gpu_memory)}" if memory and on_gpu and node.gpus else ""
        return f"{node.cpus:g} CPU{host} {node.gpus:g} GPU{each}"

    kinds = Counter(
        describe(node)
        for node in sorted(
            nodes, key=lambda node: (node.gpus, node.cpus, node.memory), reverse=True
        )
    )
    return (
        " and ".join(
            f"{'a node' if count == 1 else f'{count} nodes'} of {kind}"
            for kind, count in kinds.items()
        )
        or "no node"
    )


def _gb(bytes_: float) -> str:
    return "unknown memory" if math.isinf(bytes_) else f"{bytes_ / 1e9:.3g} GB"
