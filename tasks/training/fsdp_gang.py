"""A training by several workers, as Ray actors beside the stage's own process, which only waits for
them.

Not Ray Train: its runs keep folders, checkpoints and restarts of their own beside the store's, and
a run took some 20 s before its first step, where actors of ours took 5 (docs/sharding.md).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from erpd_core.refs import TrainingRef
from tasks.execution.gang import run_gang
from tasks.execution.ray_cluster import ensure_ray
from tasks.execution.requests import trainer_request
from tasks.execution.stage import Context
from tasks.store import Build
from tasks.training.checkpoint import written
from tasks.training.fsdp_worker import Trained, Worker


def train_together(stage: Trained, context: Context, build: Build) -> TrainingRef:
    """The answer of `stage.train`, by `runtime.trainers` workers. Of one that dies, all go on
    from their last checkpoint.
    """
    ensure_ray(context.runtime)
    share = trainer_request(context.runtime)
    own = context.runtime.model_copy(update={"cpus": share.cpus, "gpus": share.gpus})
    inside = Context(context.store, own, context.progress)

    def make(start: Callable[..., Any], address: str) -> list[Any]:
        for left in build.folder.glob(".*.tmp"):
            left.unlink()
        # a name that the next build of a killed one clears away
        meeting = build.folder / f".{uuid.uuid4().hex}.tmp"
        return [
            start(Worker, stage, inside, build, rank, meeting, address)
            for rank in range(own.trainers)
        ]

    answers = run_gang(
        build.id,
        make,
        lambda actor: actor.train.remote(),
        share,
        own.trainers,
        lambda: written(build),
        context.progress.say,
    )
    for left in build.folder.glob(".*.tmp"):
        left.unlink()
    ref: TrainingRef = answers[0]
    return ref
