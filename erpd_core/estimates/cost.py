"""Work, a model, a runtime and a machine -> FLOPs, seconds, bytes.

Every pass takes the time of its matrix products, plus that of moving what is not in a product
through memory, plus that of its calls: large models on GPUs are bound by the first, tiny ones on a
CPU by the other two. Sampling reads all weights once for every step of a shard and the keys and
values of every token that went before: it is bound by memory, and a shard lasts as long as its
longest response.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from erpd_core.config import RuntimeConfig
from erpd_core.estimates.campaign import PlannedWork
from erpd_core.estimates.machine import Machine
from erpd_core.estimates.memory import (
    Parts,
    activation_bytes,
    cache_bytes,
    micro_tokens,
    scoring_memory,
    training_memory,
    width,
)
from erpd_core.estimates.shape import ModelShape
from erpd_core.estimates.work import Counts, body_flops, forward_flops, head_flops, training_flops
from erpd_core.refs import Frozen

PASSES = 2.5
"""How often what a layer saves goes through memory in a forward pass: written once, read by what
comes next.
"""
HEAD_PASSES = {"score": 6, "train": 10}
"""How often a chunk's float32 logits do."""
OPTIMIZER_BYTES = 28
"""Bytes AdamW moves for a float32 weight: weight, both moments read and written, gradient read."""
ROW_BYTES = 4.0
"""Bytes of a stored rollout per response token: the token and its text, compressed."""
COLUMN_BYTES = 8
"""Bytes of a column per response token: log-prob and entropy."""
GATHERS = 2
"""How often sharded training gathers the weights for a micro-batch: for its forward, and again
for its backward.
"""
EVALUATIONS = ("base", "validation", "evaluate")
"""Phases whose columns are scored inside an evaluation."""


class Cost(Frozen):
    """What one task costs, all its repeats together."""

    task: PlannedWork
    flops: float
    seconds: float
    devices: int
    """How many work at it at once."""
    memory: Parts
    """Bytes of one of them."""
    disk: float
    """Bytes it leaves on disk."""
    bound: str
    """What takes most of the time: `matrix`, `memory`, `calls` or `network`."""

    @property
    def bytes(self) -> float:
        """Of one device."""
        return sum(self.memory.values())


def costs(
    tasks: Sequence[PlannedWork], shape: ModelShape, runtime: RuntimeConfig, machine: Machine
) -> list[Cost]:
    """The cost of every task, done one after the other with nothing else on the machine."""
    works = {"sample": _sampling, "score": _scoring, "train": _training}
    return [works[task.kind](task, shape, runtime, machine) for task in tasks]


def devices(runtime: RuntimeConfig, machine: Machine) -> dict[str, int]:
    """Devices of each kind of task. Without GPUs the whole machine is one, however many
    processes share it.
    """
    if not machine.is_gpu:
        return {"sample": 1, "score": 1, "train": 1}
    whole = max(1, math.ceil(runtime.gpus))
    each = max(runtime.tensor_parallel, math.ceil(runtime.sampler_gpus or 0))
    samplers = runtime.samplers if runtime.samples_apart else 1
    return {
        "sample": samplers * each if samplers > 1 else max(whole, each),
        "score": runtime.scorers if runtime.scores_apart else 1,
        "train": runtime.trainers if runtime.trains_apart else 1,
    }


# --------------------------------------------------------------------------------------- two passes


def _scoring(
    task: PlannedWork, shape: ModelShape, runtime: RuntimeConfig, machine: Machine
) -> Cost:
    counts = task.batch.counts()
    shards = math.ceil(task.batch.prompts / task.shard)
    # an evaluation with room of its own scores there
    inside = task.phase in EVALUATIONS and not runtime.samples_apart
    count = 1 if task.online or inside else min(devices(runtime, machine)["score"], shards)
    part = math.ceil(shards / count) / shards  # of all, what the busiest does
    rate = machine.flops(runtime.dtype) * machine.efficiency.score
    spent = {
        "matrix": forward_flops(shape, counts) / rate,
        "memory": _moved(shape, runtime, counts, "score")
        / (machine.bandwidth * machine.efficiency.memory),
        "calls": _calls(shape, runtime, task, counts) * machine.call,
    }
    return Cost(
        task=task,
        flops=task.repeat * forward_flops(shape, counts),
        seconds=task.repeat * part * sum(spent.values()),
        devices=count,
        memory=scoring_memory(shape, runtime, task.batch),
        disk=task.repeat * COLUMN_BYTES * task.batch.tokens * (not task.online),
        bound=max(spent, key=lambda name: spent[name]),
    )


def _training(
    task: PlannedWork, shape: ModelShape, runtime: RuntimeConfig, machine: Machine
) -> Cost:
    counts = task.batch.part(task.minibatch)
    count = 1 if task.online else devices(runtime, machine)["train"]
    options = {"sequence_level": task.twice, "recompute": runtime.recompute}
    passes = 4 if runtime.recompute else 3
    moved = passes * _moved(shape, runtime, counts, "train") + OPTIMIZER_BYTES * shape.parameters
    computing = {
        "matrix": training_flops(shape, counts, **options)
        / (machine.flops(runtime.dtype) * machine.efficiency.train)
        / count,
        "memory": moved / (machine.bandwidth * machine.efficiency.memory) / count,
        "calls": passes * _calls(shape, runtime, task, counts) * machine.call / count,
    }
    network = _exchange(task, shape, runtime, machine, counts, count)
    # what does not hide behind computing
    spent = computing | {"network": max(0.0, network - sum(computing.values()))}
    extra = (
        {"the start policy": width(runtime.dtype) * float(shape.parameters)} if task.online else {}
    )
    checkpoint = shape.parameters * width("float32" if count > 1 else runtime.dtype)
    return Cost(
        task=task,
        flops=task.steps * training_flops(shape, counts, **options),
        seconds=task.steps * sum(spent.values()),
        devices=count,
        memory=training_memory(shape, runtime, task.batch, count) | extra,
        disk=float(task.kept * checkpoint),
        bound=max(
            computing | {"network": network},
            key=lambda name: (computing | {"network": network})[name],
        ),
    )


def _moved(shape: ModelShape, runtime: RuntimeConfig, counts: Counts, work: str) -> float:
    """Bytes outside of products in one forward pass."""
    layers = PASSES * shape.layers * activation_bytes(shape, runtime.dtype) * counts.tokens
    head = HEAD_PASSES[work] * 4 * shape.vocab * counts.predicted
    # of training: over its three passes together
    return layers + (head if work == "score" else head / 3)


def _calls(shape: ModelShape, runtime: RuntimeConfig, task: PlannedWork, counts: Counts) -> float:
    """Layers called in one forward pass over all micro-batches."""
    return shape.layers * math.ceil(counts.tokens / micro_tokens(runtime, task.batch))


def _exchange(
    task: PlannedWork,
    shape: ModelShape,
    runtime: RuntimeConfig,
    machine: Machine,
    counts: Counts,
    count: int,
) -> float:
    """Seconds a trainer spends exchanging shards in a step: weights gathered, gradients
    (float32) scattered, for every micro-batch.
    """
    if count == 1:
        return 0.0
    micros = math.ceil(counts.tokens / count / micro_tokens(runtime, task.batch))
    sent = shape.parameters * (GATHERS * width(runtime.dtype) + 4)
    speed = machine.link if count <= machine.per_node else machine.network
    return micros * sent / (speed or math.inf)


# ----------------------------------------------------------------------------------------- sampling


def _sampling(
    task: PlannedWork, shape: ModelShape, runtime: RuntimeConfig, machine: Machine
) -> Cost:
    batch = task.batch
    each = runtime.tensor_parallel if machine.is_gpu else 1
    count = each if task.online else devices(runtime, machine)["sample"]
    engines = max(1, count // each)
    shards = math.ceil(batch.prompts / task.shard)
    at_once = task.shard * batch.samples
    room = _cache_room(task, shape, runtime, machine) * each
    fit = max(
        1,
        min(at_once, int(room / cache_bytes(shape, runtime.dtype, batch.prompt + batch.response))),
    )
    steps = batch.longest + (at_once / fit - 1) * batch.response
    weights = width(runtime.dtype) * (shape.block_weights + shape.head_weights)
    seen = batch.prompt + batch.response * (1 + batch.spread**2) / 2
    tokens = at_once * batch.response
    bandwidth = machine.bandwidth * machine.efficiency.memory * each
    rate = machine.flops(runtime.dtype) * machine.efficiency.score * each
    # our cache is written in place and needs fewer: an upper estimate
    copies = 1 if machine.is_gpu else 4
    decoding = (
        2.0
        * tokens
        * (
            shape.block_weights
            + shape.products_per_state
            + shape.head_weights
            + shape.products_per_pair * seen
        )
    )
    prompts = Counts(
        tokens=task.shard * batch.prompt,
        pairs=task.shard * batch.prompt**2 / 2,
        predicted=task.shard,
    )
    spent = {
        "memory": (steps * weights + copies * tokens * cache_bytes(shape, runtime.dtype, seen))
        / bandwidth,
        "matrix": (decoding + forward_flops(shape, prompts)) / rate,
        "calls": steps * shape.layers * machine.step,
    }
    # our engine draws in float64, going through the logits at most ten times, and moves activations
    # like any pass
    if not machine.is_gpu:
        outside = PASSES * shape.layers * activation_bytes(shape, runtime.dtype) + 80 * shape.vocab
        spent["memory"] += tokens * outside / bandwidth
    memory = {
        "weights": weights / each,
        "keys and values": min(room, fit * cache_bytes(shape, runtime.dtype, batch.longest)) / each,
    }
    if task.online:  # between two updates: the trainer's states stay
        trained = training_memory(shape, runtime, batch, 1)
        memory |= {
            name: size for name, size in trained.items() if name in ("gradients", "AdamW's moments")
        }
        memory |= {
            "the policy in training, and the start policy": 2
            * width(runtime.dtype)
            * float(shape.parameters)
        }
    rounds = math.ceil(shards / engines)
    flops = body_flops(shape, batch.counts()) + head_flops(shape, batch.counts())
    return Cost(
        task=task,
        flops=task.repeat * flops,
        seconds=task.repeat * rounds * sum(spent.values()),
        devices=count,
        memory=memory,
        disk=task.repeat * ROW_BYTES * batch.tokens * (not task.online),
        bound=max(spent, key=lambda name: spent[name]),
    )


def _cache_room(
    task: PlannedWork, shape: ModelShape, runtime: RuntimeConfig, machine: Machine
) -> float:
    """Bytes of keys and values that a device has room for."""
    if not machine.is_gpu:
        return machine.memory
    weights = width(runtime.dtype) * shape.parameters / runtime.tensor_parallel
    return max(1e9, runtime.gpu_memory_utilization * machine.memory - weights)
