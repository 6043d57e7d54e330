"""Runs the workers of a sharded training as Ray actors, while the stage's process waits for them.

Ray Train is not used. Its runs have their own folders, checkpoints and restarts in addition to the
store's, and one took about 20 s before its first step, compared with 5 s for these actors
(docs/sharding.md).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from erpd_core.refs import TrainingRef
from tasks.execution.gang import run_gang
from tasks.execution.ray_cluster import ensure_ray
from tasks.execution.resource_requests import trainer_request
from tasks.execution.stage import Context
from tasks.store import Build
from tasks.training.checkpoint import written
from tasks.training.fsdp_worker import ShardedTraining, Worker


def train_together(stage: ShardedTraining, context: Context, build: Build) -> TrainingRef:
    """The result of `stage.train`, computed by `runtime.trainers` workers.

    If one of them dies, all resume from their last checkpoint.
    """
    ensure_ray(context.runtime)
    request = trainer_request(context.runtime)
    own = context.runtime.model_copy(update={"cpus": request.cpus, "gpus": request.gpus})
    inside = Context(context.store, own, context.progress)

    def make(start: Callable[..., Any], address: str) -> list[Any]:
        for left in build.folder.glob(".*.tmp"):
            left.unlink()
        # a file of this name is removed when a killed build is continued
        rendezvous = build.folder / f".{uuid.uuid4().hex}.tmp"
        return [
            start(Worker, stage, inside, build, rank, rendezvous, address)
            for rank in range(own.trainers)
        ]

    results = run_gang(
        build.id,
        make,
        lambda actor: actor.train.remote(),
        request,
        own.trainers,
        lambda: written(build),
        context.progress.say,
    )
    for left in build.folder.glob(".*.tmp"):
        left.unlink()
    ref: TrainingRef = results[0]
    return ref
