"""Stages that a running stage asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from erpd_core.config import RuntimeConfig
from tasks.execution.ray_cluster import ensure_ray
from tasks.execution.requests import stage_request
from tasks.execution.stage import Context, Ref, Stage, get_or_compute


def run_in_ray_task(work: Callable[..., Any], runtime: RuntimeConfig, *args: Any) -> Any:
    """`work(*args)` in a Ray task of its own that asks for a stage's share; its answer, or the
    error it raised.
    """
    import ray

    ensure_ray(runtime)
    try:
        return ray.get(
            ray.remote(work).options(**stage_request(runtime).options, max_retries=0).remote(*args)
        )
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def get_or_compute_inside(outer: Stage[Any], stage: Stage[Ref], context: Context) -> Ref:
    """`get_or_compute` for work that the stage `outer` asks for while it runs.

    Where `outer` has room, it works there by itself: scorers beside it would wait for the room it
    holds. Where `outer` only waits, it has none, so the work is left to actors of `stage`, or else
    to a Ray task.
    """
    runtime = context.runtime
    if not outer.runs_on_actors(runtime):
        return get_or_compute(
            stage, replace(context, runtime=runtime.model_copy(update={"scorers": 1}))
        )
    if stage.runs_on_actors(runtime):
        return get_or_compute(stage, context)
    found = stage.stored(context.store)
    if found is not None:
        return found
    ref: Ref = run_in_ray_task(get_or_compute, runtime, stage, context)
    return ref
