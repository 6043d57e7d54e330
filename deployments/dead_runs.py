"""What makes Prefect's server mark a run Crashed whose process is gone and cannot say so itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

SILENCE = timedelta(seconds=120)
"""Flow runs send a heartbeat every 30 seconds; one that says nothing for so long is dead."""
DEAD_RUNS = "erpd: mark dead runs Crashed"


async def mark_dead_runs() -> None:
    """An automation of the server, made once: a flow run whose heartbeat stops without an end is Crashed."""
    try:
        await Automation.aread(name=DEAD_RUNS)
    except (ObjectNotFound, ValueError):
        await _dead_runs().acreate()


def _dead_runs() -> Automation:
    ends = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended", "AwaitingRetry", "Scheduled")
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
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="its process is gone")],
    )
