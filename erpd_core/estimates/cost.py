"""Cost of planned work, for a model, a runtime and a machine: FLOPs, seconds, bytes.

The time of a pass is that of its matrix products, plus that of moving all other data through
memory, plus that of its calls. The first dominates for large models on GPUs, the other two for tiny
models on a CPU. Sampling reads all weights once per step of a shard, and the keys and values of all
earlier tokens. It is bound by memory, and a shard takes as long as its longest response.
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
"""Times that the saved activations of a layer go through memory in a forward pass: written once,
then read by the next operations.
"""
HEAD_PASSES = {"score": 6, "train": 10}
"""Times that the float32 logits of a chunk go through memory."""
OPTIMIZER_BYTES = 28
"""Bytes that AdamW moves per float32 weight: weight and both moments read and written, gradient
read.
"""
ROW_BYTES = 4.0
"""Bytes of a stored rollout per response token: the token and its text, compressed."""
COLUMN_BYTES = 8
"""Bytes of a column per response token: log-prob and entropy."""
GATHERS = 2
"""Times that sharded training gathers the weights per micro-batch: for the forward and the
backward.
"""
EVALUATIONS = ("base", "validation", "evaluate")
"""Phases in which an evaluation scores the columns."""


class Cost(Frozen):
    """Cost of one task, all repeats together."""

    task: PlannedWork
    flops: float
    """Floating-point operations."""
    seconds: float
    """Wall-clock time."""
    devices: int
    """Devices that work on it at once."""
    memory: Parts
    """Bytes on one device, by part."""
    disk: float
    """Bytes that it stores on disk."""
    bound: str
    """The largest share of the time: `matrix`, `memory`, `calls` or `network`."""

    @property
    def bytes(self) -> float:
        """Bytes on one device."""
        return sum(self.memory.values())


def costs(
    tasks: Sequence[PlannedWork], shape: ModelShape, runtime: RuntimeConfig, machine: Machine
) -> list[Cost]:
    """Cost of each task, if tasks run one after the other with nothing else on the machine."""
    works = {"sample": _sampling, "score": _scoring, "train": _training}
    return [works[task.kind](task, shape, runtime, machine) for task in tasks]


def devices(runtime: RuntimeConfig, machine: Machine) -> dict[str, int]:
    """Number of devices of each kind of task.

    Without GPUs the whole machine is one device, however many processes share it.
    """
    if not machine.is_gpu:
        return {"sample": 1, "score": 1, "train": 1}
    stage_gpus = max(1, math.ceil(runtime.gpus))
    gpus_per_sampler = max(runtime.tensor_parallel, math.ceil(runtime.sampler_gpus or 0))
    samplers = runtime.samplers if runtime.samples_on_actors else 1
    return {
        "sample": samplers * gpus_per_sampler
        if samplers > 1
        else max(stage_gpus, gpus_per_sampler),
        "score": runtime.scorers if runtime.scores_on_actors else 1,
        "train": runtime.trainers if runtime.trains_on_actors else 1,
    }


# --------------------------------------------------------------------------------------- two passes


def _scoring(
    task: PlannedWork, shape: ModelShape, runtime: RuntimeConfig, machine: Machine
) -> Cost:
    counts = task.batch.counts()
    shards = math.ceil(task.batch.prompts / task.shard)
    # an evaluation without sampler actors scores in its own process
    inside = task.phase in EVALUATIONS and not runtime.samples_on_actors
    count = 1 if task.online or inside else min(devices(runtime, machine)["score"], shards)
    part = math.ceil(shards / count) / shards  # share of the busiest device
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
    # only communication that computation does not hide takes time
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
    """Bytes that one forward pass moves outside of matrix products."""
    layers = PASSES * shape.layers * activation_bytes(shape, runtime.dtype) * counts.tokens
    head = HEAD_PASSES[work] * 4 * shape.vocab * counts.predicted
    # for training HEAD_PASSES counts all three passes together
    return layers + (head if work == "score" else head / 3)


def _calls(shape: ModelShape, runtime: RuntimeConfig, task: PlannedWork, counts: Counts) -> float:
    """Layer calls in one forward pass over all micro-batches."""
    return shape.layers * math.ceil(counts.tokens / micro_tokens(runtime, task.batch))


def _exchange(
    task: PlannedWork,
    shape: ModelShape,
    runtime: RuntimeConfig,
    machine: Machine,
    counts: Counts,
    count: int,
) -> float:
    """Seconds of communication per step of a trainer.

    For every micro-batch weights are gathered and float32 gradients scattered.
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
    per_engine = runtime.tensor_parallel if machine.is_gpu else 1
    count = per_engine if task.online else devices(runtime, machine)["sample"]
    engines = max(1, count // per_engine)
    shards = math.ceil(batch.prompts / task.shard)
    at_once = task.shard * batch.samples
    room = _cache_room(task, shape, runtime, machine) * per_engine
    fit = max(
        1,
        min(at_once, int(room / cache_bytes(shape, runtime.dtype, batch.prompt + batch.response))),
    )
    steps = batch.longest + (at_once / fit - 1) * batch.response
    weights = width(runtime.dtype) * (shape.block_weights + shape.head_weights)
    seen = batch.prompt + batch.response * (1 + batch.spread**2) / 2
    tokens = at_once * batch.response
    bandwidth = machine.bandwidth * machine.efficiency.memory * per_engine
    rate = machine.flops(runtime.dtype) * machine.efficiency.score * per_engine
    # an upper estimate: our cache is written in place and needs fewer copies
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
    # our engine draws in float64 with at most ten passes over the logits, and moves activations as
    # any pass does
    if not machine.is_gpu:
        outside = PASSES * shape.layers * activation_bytes(shape, runtime.dtype) + 80 * shape.vocab
        spent["memory"] += tokens * outside / bandwidth
    memory = {
        "weights": weights / per_engine,
        "keys and values": min(room, fit * cache_bytes(shape, runtime.dtype, batch.longest))
        / per_engine,
    }
    if task.online:  # the trainer's states stay in memory between updates
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
    """Bytes of keys and values that fit on a device."""
    if not machine.is_gpu:
        return machine.memory
    weights = width(runtime.dtype) * shape.parameters / runtime.tensor_parallel
    return max(1e9, runtime.gpu_memory_utilization * machine.memory - weights)
