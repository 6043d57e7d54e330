"""Stages that a running stage needs the results of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from erpd_core.config import RuntimeConfig
from tasks.execution.ray_cluster import ensure_ray
from tasks.execution.resource_requests import stage_request
from tasks.execution.stage import Context, Ref, Stage, get_or_compute


def run_in_ray_task(work: Callable[..., Any], runtime: RuntimeConfig, *args: Any) -> Any:
    """Run `work(*args)` in a Ray task that requests as much as a stage; returns its result.

    An exception of `work` is raised unchanged.
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
    """`get_or_compute` of a stage that `outer` needs while `outer` runs.

    If `outer` holds a stage's resources, this process computes `stage`: separate scorers would
    wait for the resources that `outer` holds. If `outer` only waits for actors, it holds nothing,
    and the actors of `stage` or a Ray task do the work.
    """
    runtime = context.runtime
    if not outer.runs_on_actors(runtime):
        return get_or_compute(
            stage, replace(context, runtime=runtime.model_copy(update={"scorers": 1}))
        )
    if stage.runs_on_actors(runtime):
        return get_or_compute(stage, context)
    stored = stage.stored(context.store)
    if stored is not None:
        return stored
    ref: Ref = run_in_ray_task(get_or_compute, runtime, stage, context)
    return ref
