"""Submits stages to Prefect's task runners, on Ray or in this process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from contextlib import ExitStack
from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from erpd_core.config import RuntimeConfig
from tasks.execution.ray_cluster import ensure_ray
from tasks.execution.requests import Share, stage_share
from tasks.execution.stage import Stage

HALTED_SECONDS = 1.0
"""How soon who waits for an answer sees that work was halted."""


class StageRunner(TaskRunner[Any]):
    """Runs each stage where its runtime says: on Ray, or in a thread of this process. Either starts
    at its first stage: a campaign whose every stage is cached starts none.
    """

    def __init__(self) -> None:
        super().__init__()
        self._started_with: dict[str, TaskRunner[Any]] = {}
        self._open = ExitStack()

    def duplicate(self) -> StageRunner:
        return StageRunner()

    def __exit__(self, *details: Any) -> None:
        self._open.__exit__(*details)
        self._started_with.clear()
        super().__exit__(*details)

    def submit(self, task: Any, parameters: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return self._runner(parameters["runtime"]).submit(task, parameters, *args, **kwargs)

    def _runner(self, runtime: RuntimeConfig) -> TaskRunner[Any]:
        if runtime.ray not in self._started_with:
            runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=1)
            if runtime.ray == "on":
                from prefect_ray.task_runners import RayTaskRunner

                ensure_ray(runtime)
                runner = RayTaskRunner()
            self._started_with[runtime.ray] = self._open.enter_context(runner)
        return self._started_with[runtime.ray]


def submit(task: Any, runtime: RuntimeConfig, stage: Stage[Any], *args: Any) -> Any:
    """Submit a Prefect task on a stage to the current flow's runner with what the stage asks;
    returns its future.
    """
    if runtime.ray == "off":
        return task.submit(stage, *args)
    from prefect_ray.context import remote_options

    options = {
        **asked(stage, runtime).options,
        **(_beside_the_flow(runtime) if stage.waits(runtime) else {}),
    }
    # Ray would silently replay a task whose worker died while Prefect shows it Running for ever:
    # retries are Prefect's.
    with remote_options(**options, max_retries=0):
        return task.submit(stage, *args)


def answer(future: Any, halted: Callable[[], bool]) -> Any:
    """Wait for what `submit` returned; its answer, or the error it raised. Raises KeyboardInterrupt
    once `halted`: of a Ray that is stopped no answer comes.

    Signals are heard meanwhile: `ray.get` drops what a handler raises, unless that is a
    KeyboardInterrupt.
    """
    work = future.wrapped_future
    working = [work if isinstance(work, futures.Future) else work.future()]
    while not futures.wait(working, timeout=HALTED_SECONDS).done:
        if halted():
            raise KeyboardInterrupt
    return future.result()


def _beside_the_flow(runtime: RuntimeConfig) -> dict[str, Any]:
    """What asks for nothing Ray puts on any node, the cluster's head too, which may not even see
    ERPD_HOME: this keeps it on our own.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ensure_ray(runtime)
    return {
        "scheduling_strategy": NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
    }


def asked(stage: Stage[Any], runtime: RuntimeConfig) -> Share:
    """What a stage's task asks: nothing where it only waits for actors."""
    if stage.waits(runtime):
        return Share(0, 0.0)
    return Share(1, 0.0) if stage.LIGHT else stage_share(runtime)
