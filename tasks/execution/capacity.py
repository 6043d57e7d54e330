"""What the stages of a campaign need of a cluster, computed from its config, and whether the
cluster can ever give it.

Ray lets a task that asks for more than there is wait for ever, and so do trainers of whom one finds
no room. Bytes are counted where a model's shape is known, and only those that are certain: weights,
and in training gradients and AdamW's moments, never activations. Light: imports neither Prefect nor
Ray, unless there is a cluster to ask, and torch only where GPUs matter.
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
from tasks.execution.requests import (
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
"""Numbers that training holds for every weight: itself, its gradient, AdamW's two moments."""


@dataclass(frozen=True)
class Node:
    """What one machine offers. Example: `Node(cpus=96, gpus=8, memory=1e12, gpu_memory=80e9)`"""

    cpus: float
    gpus: float
    memory: float = math.inf
    """Bytes of the host; infinite where it is not known, as below."""
    gpu_memory: float = math.inf
    """Bytes of one of its GPUs."""


class Remedy(NamedTuple):
    """How the config asks less: the key to look at, and what to do."""

    key: str
    how: str


@dataclass(frozen=True)
class Requirement:
    """What must fit, or the campaign never ends.

    Example: `Requirement("trainers", Share(1, 1.0), {"GPU": Mend("runtime.trainers", "lower it")},
    held=35e9, where="gpu", count=8)`
    """

    who: str
    share: ResourceRequest
    mends: dict[Dimension, Remedy]
    """How the config asks less of a dimension."""
    held: float = 0.0
    """Bytes that each holds at the very least; 0 where they are not known."""
    where: Literal["host", "gpu", "either"] = "host"
    """`either`: no GPU is asked for, but one that is there is used."""
    count: int = 1
    """So many start together, on whatever nodes; each of them on one."""

    def room(self, node: Node) -> int:
        """How many of them the node has room for, at most all."""
        return min(self._fit(dimension, node) for dimension in DIMENSIONS)

    def lacking(self, nodes: Sequence[Node]) -> list[Dimension]:
        """What there is not enough of; empty if all is well. Where no node has together what
        some have apart: all that is asked.
        """
        if sum(map(self.room, nodes)) >= self.count:
            return []
        short = [
            one for one in DIMENSIONS if sum(self._fit(one, node) for node in nodes) < self.count
        ]
        return short or [one for one in DIMENSIONS if self._amount(one)]

    def _amount(self, dimension: Dimension) -> float:
        return {"CPU": self.share.cpus, "GPU": self.share.gpus, "memory": self.held}[dimension]

    def _fit(self, dimension: Dimension, node: Node) -> int:
        if dimension == "memory" and self.where == "gpu":
            # each has its own
            return (
                self.count if not node.gpus or self.held <= node.gpu_memory * self.share.gpus else 0
            )
        host = math.inf if self.where == "either" and node.gpus else node.memory
        amount, has = (
            self._amount(dimension),
            {"CPU": node.cpus, "GPU": node.gpus, "memory": host}[dimension],
        )
        return (
            self.count
            if not amount or math.isinf(has)
            else min(self.count, math.floor(has / amount + 1e-6))
        )


# ------------------------------------------------------------------------------------ what is asked


def requirements(
    runtime: RuntimeConfig, weights: float = 0, alone: Sequence[str] = ()
) -> list[Requirement]:
    """What stages need that run a model of so many weights, or of an unknown number.

    **Arguments:** `alone`: trainings that have no trainers, but run in their stage's own process.
    """
    return list(_requirements(runtime, weights, alone))


def _requirements(
    runtime: RuntimeConfig, weights: float, alone: Sequence[str]
) -> Iterator[Requirement]:
    whole, once = stage_request(runtime), width(runtime.dtype) * weights
    own = _lower("cpus", "gpus") | {"memory": Remedy("model", "take a smaller model")}
    more: dict[Dimension, Remedy] = {
        "memory": Remedy("runtime.trainers", "raise runtime.trainers, who share it")
    }
    yield Requirement("drawing problems", ResourceRequest(1, 0.0), {})
    if runtime.samples_apart:
        share = sampler_request(runtime)
        mends = own | _lower("sampler_cpus", "sampler_gpus")
        yield Requirement("a sampler", share, mends, once, _where(share, runtime))
    else:
        yield Requirement("sampling", whole, own, once, _where(whole, runtime))
    share = scorer_request(runtime) if runtime.scores_apart else whole
    yield Requirement(
        "a scorer" if runtime.scores_apart else "scoring", share, own, once, _where(share, runtime)
    )
    if runtime.trains_apart:
        share = trainer_request(runtime)
        fewer = "lower runtime.trainers or runtime."
        mends = {
            "CPU": Remedy("runtime.trainers", f"{fewer}trainer_cpus"),
            "GPU": Remedy("runtime.trainers", f"{fewer}trainer_gpus"),
            **more,
        }
        # several keep float32 weights
        each = TRAINED * width("float32") * weights / runtime.trainers
        yield Requirement(
            "trainers",
            share,
            mends,
            each,
            "host" if runtime.offload else _where(share, runtime),
            runtime.trainers,
        )
    else:
        yield Requirement("training", whole, own | more, TRAINED * once, _where(whole, runtime))
    for who in alone:
        yield Requirement(who, whole, own, TRAINED * once, _where(whole, runtime))


def _lower(cpus: str, gpus: str) -> dict[Dimension, Remedy]:
    keys: tuple[tuple[Dimension, str], ...] = (("CPU", cpus), ("GPU", gpus))
    return {name: Remedy(f"runtime.{key}", f"lower runtime.{key}") for name, key in keys}


def _where(share: ResourceRequest, runtime: RuntimeConfig) -> Literal["host", "gpu", "either"]:
    return "gpu" if share.gpus else "host" if runtime.device == "cpu" else "either"


def this_node(asked: Sequence[Requirement], runtime: RuntimeConfig) -> Node:
    """What a Ray that is started here offers. GPUs are counted only where one is asked for, or
    the host alone would not do.
    """
    host = Node(local_cpus(runtime), 0.0, float(psutil.virtual_memory().total))
    if not any(need.share.gpus or need.lacking([host]) for need in asked):
        return host
    import torch

    count = torch.cuda.device_count()
    least = min(
        (torch.cuda.get_device_properties(one).total_memory for one in range(count)),
        default=math.inf,
    )
    return Node(host.cpus, count, host.memory, least)


# -------------------------------------------------------------------------------------- the refusal


def refuse_impossible(
    asked: Sequence[Requirement], nodes: Sequence[Node], runtime: RuntimeConfig
) -> None:
    """Raises ValueError for the first need that can never be met: who asks what, what there is,
    and what to change.
    """
    address = ray_address(runtime.ray_address)
    there = f"the Ray cluster at {address}" if address else "the Ray of this machine"
    elsewhere = "add nodes" if address else "set runtime.ray_address to a cluster that has it"
    for need in asked:
        if lacking := need.lacking(nodes):
            mends = [need.mends[one] for one in lacking if one in need.mends]
            key = mends[0].key if mends else "runtime.ray_address"
            how = ", or ".join([*(mend.how for mend in mends), elsewhere])
            raise ValueError(
                f"{key}: {_asks(need, nodes)}, and {there} has {_offers(need, nodes)}; {how}"
            )


def _asks(need: Requirement, nodes: Sequence[Node]) -> str:
    amounts = [
        f"{amount:g} {name}"
        for name, amount in (("CPU", need.share.cpus), ("GPU", need.share.gpus))
        if amount
    ]
    if need.held and "memory" in need.lacking(nodes):
        amounts.append(
            f"at least {_gb(need.held)} of {'its' if need.where == 'gpu' else 'host'} memory"
        )
    if need.count == 1:
        return f"{need.who} asks for {' and '.join(amounts)} on one node"
    room = sum(map(need.room, nodes))
    return (
        f"{need.count} {need.who}, who start together, ask for {' and '.join(amounts)} each: "
        f"there is room for {room}"
    )


def _offers(need: Requirement, nodes: Sequence[Node]) -> str:
    """The nodes, the largest first, those alike counted."""
    memory = "memory" in need.lacking(nodes)

    def words(node: Node) -> str:
        host = f" {_gb(node.memory)}" if memory and need.where != "gpu" else ""
        each = f" of {_gb(node.gpu_memory)}" if memory and need.where == "gpu" and node.gpus else ""
        return f"{node.cpus:g} CPU{host} {node.gpus:g} GPU{each}"

    kinds = Counter(
        words(node)
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
