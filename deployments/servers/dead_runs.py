"""Marks Prefect runs Crashed when their process died without reporting it.

An automation of the server marks flow runs. No automation can mark task runs: the next run, or the
process of `erpd up` that serves the deployments, marks those.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import get_client
from prefect.automations import Automation
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

SILENCE = timedelta(seconds=120)
"""A flow run without a heartbeat for this long is dead; heartbeats come every 30 seconds."""
SETTLED = timedelta(seconds=60)
"""Wait after the end of a flow run: its tasks' last states reach the server a little later."""
DEAD_RUNS = "erpd: mark dead runs Crashed"


async def mark_dead_runs() -> None:
    """Create, once per server, the automation that marks dead flow runs Crashed.

    A flow run is dead if its heartbeat stops before it reaches a final state.
    """
    try:
        await Automation.aread(name=DEAD_RUNS)
    except (ObjectNotFound, ValueError):
        await _dead_runs().acreate()


def _dead_runs() -> Automation:
    ends = (
        "Completed",
        "Failed",
        "Cancelled",
        "Crashed",
        "Paused",
        "Suspended",
        "AwaitingRetry",
        "Scheduled",
    )
    heartbeat: Any = {"prefect.flow-run.heartbeat"}
    return Automation(
        name=DEAD_RUNS,
        trigger=EventTrigger(
            after=heartbeat,
            expect=heartbeat | {f"prefect.flow-run.{end}" for end in ends},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, name="Crashed", message="its process is gone"
            )
        ],
    )


async def watch_for_dead_runs() -> None:
    """Make a server that outlives this run watch for dead runs, and end tasks of earlier ones."""
    await mark_dead_runs()
    await end_left_tasks()


async def end_left_tasks() -> int:
    """Mark Crashed all unfinished task runs of flow runs that ended more than SETTLED ago.

    **Returns:** The number of task runs marked.
    """
    unfinished = TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    ended = FlowRunFilterEndTime(before_=datetime.now(UTC) - SETTLED)
    async with get_client() as client:
        task_runs = await client.read_task_runs(
            task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=unfinished, name=None)),
            flow_run_filter=FlowRunFilter(end_time=ended),
        )
        for task_run in task_runs:
            await client.set_task_run_state(
                task_run.id, Crashed(message="its flow run has ended"), force=True
            )
    return len(task_runs)
