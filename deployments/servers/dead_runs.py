"""What makes Prefect's server mark runs Crashed whose process is gone and cannot say so itself:
flow runs by an automation of its own, and their tasks, which no automation reaches, by whoever
starts next or watches.
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
"""Flow runs send a heartbeat every 30 seconds; one that says nothing for so long is dead."""
SETTLED = timedelta(seconds=60)
"""What tasks say of themselves reaches the server a little after their flow run has ended."""
DEAD_RUNS = "erpd: mark dead runs Crashed"


async def mark_dead_runs() -> None:
    """An automation of the server, made once: a flow run whose heartbeat stops without an end is
    Crashed.
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
    """What a run says to a server that outlives it: to notice should it be killed, and to end
    what earlier ones left.
    """
    await mark_dead_runs()
    await end_left_tasks()


async def end_left_tasks() -> int:
    """Mark Crashed what still runs, by the server's books, in flow runs that ended a while ago;
    how many tasks that were.
    """
    going = TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    ended = FlowRunFilterEndTime(before_=datetime.now(UTC) - SETTLED)
    async with get_client() as client:
        left = await client.read_task_runs(
            task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=going, name=None)),
            flow_run_filter=FlowRunFilter(end_time=ended),
        )
        for one in left:
            await client.set_task_run_state(
                one.id, Crashed(message="its flow run has ended"), force=True
            )
    return len(left)
