"""Prefect's task runner for Ray, without the import of the campaign's flow in every worker."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.context import FlowRunContext
from prefect_ray.task_runners import RayTaskRunner


@flow(name="campaign")
def _campaign() -> None:
    """Stands for the campaign's flow in Ray's workers."""


class RayRunner(RayTaskRunner[Any]):
    """Runs each task in a Ray worker.

    Prefect sends the flow and its parameters with every task. A stage needs neither, and to read
    them a worker would import `flows`: a second and a half of a core, once per worker.
    """

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        context = FlowRunContext.get()
        if context is None:
            return super().submit(*args, **kwargs)
        with context.model_copy(update={"flow": _campaign, "parameters": {}}):
            return super().submit(*args, **kwargs)
