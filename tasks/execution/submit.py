"""Submission of stages to Prefect's task runners: on Ray, or in this process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from erpd_core.config import RuntimeConfig
from tasks.execution.prefect_tasks import PREFECT_TASKS
from tasks.execution.ray_cluster import ensure_ray
from tasks.execution.resource_requests import ResourceRequest
from tasks.execution.stage import Stage, held_by

POLL_SECONDS = 1.0
"""How often a waiting thread looks up: for a cancellation, and for other work to start."""


class StageRunner(TaskRunner[Any]):
    """Runs each stage where its runtime sets: on Ray, or in a thread of this process.

    Either starts with its first stage, so a campaign with only cached stages starts neither.
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
                from tasks.execution.ray_runner import RayRunner

                ensure_ray(runtime)
                runner = RayRunner()
            self._started_with[runtime.ray] = self._open.enter_context(runner)
        return self._started_with[runtime.ray]


def submit(stage: Stage[Any], runtime: RuntimeConfig, label: str, events: Path) -> Any:
    """Submit the stage's Prefect task to the current flow's runner.

    **Returns:** The task's future; `work_of` gives what to wait for.
    """
    task = PREFECT_TASKS[stage.VERB]
    if runtime.ray == "off":
        return task.submit(stage, runtime, label, events)
    from prefect_ray.context import remote_options

    options = {
        **request_for(stage, runtime).options,
        **(_on_own_node(runtime) if stage.runs_on_actors(runtime) else {}),
    }
    # Retries are Prefect's: a retry by Ray would leave the task Running in Prefect indefinitely.
    with remote_options(**options, max_retries=0):
        return task.submit(stage, runtime, label, events)


def work_of(future: Any) -> futures.Future[Any]:
    """The work behind a Prefect future, whose end can be waited for. Get it once: each is new."""
    work = future.wrapped_future
    return work if isinstance(work, futures.Future) else work.future()


def wait_for(work: futures.Future[Any], poll: Callable[[], object]) -> None:
    """Wait for the end of submitted work.

    Signal handlers run while this waits. `ray.get` would drop every exception that they raise,
    except KeyboardInterrupt.

    **Arguments:**
        poll: Called every `POLL_SECONDS`. What it raises ends the wait: a stopped Ray never
            responds.
    """
    while not futures.wait([work], timeout=POLL_SECONDS).done:
        poll()


def request_for(stage: Stage[Any], runtime: RuntimeConfig) -> ResourceRequest:
    """What a stage's task requests of Ray; nothing if it only waits for actors."""
    return ResourceRequest(0, 0.0) if stage.runs_on_actors(runtime) else held_by(stage, runtime)


def _on_own_node(runtime: RuntimeConfig) -> dict[str, Any]:
    """Options that keep a task on the flow's own node.

    Ray places a task that requests nothing on any node, even on one that has no ERPD_HOME.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ensure_ray(runtime)
    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
