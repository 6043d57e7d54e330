"""A running campaign in Prefect's UI: progress bars, a table of stages, links to MLflow, log lines.

All but the log lines are artifacts of the flow run, updated in place. Errors in showing them are
ignored: no stage fails or waits because of them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextvars import copy_context
from typing import Any

from prefect import get_client
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger
from prefect.runtime import flow_run

from flows.live.artifacts import LiveArtifact
from flows.steps.recorder import CampaignRecorder
from tasks.execution.progress import SESSION, follow
from tasks.host.services import mlflow_ui
from tasks.untrusted.display_text import one_line

EVERY_SECONDS = 3.0
"""Time between two updates."""
LINES = 200
"""Rows of the table of stages: the last ones."""


def name_run(name: str) -> None:
    """Set the name of the current flow run."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, name=name)


class Live:
    """Context manager that shows a campaign's new events in the current flow run."""

    def __init__(self, recorder: CampaignRecorder, wanted: int) -> None:
        self.recorder, self.wanted = recorder, wanted
        self.stages: dict[str, dict[str, Any]] = {}
        """Label -> row of the table."""
        self._since: dict[str, float] = {}
        self._position = recorder.events.stat().st_size if recorder.events.exists() else 0
        self._campaign, self._stage = (
            LiveArtifact("progress", "campaign-progress"),
            LiveArtifact("progress", "stage-progress"),
        )
        self._table, self._links = (
            LiveArtifact("table", "stages"),
            LiveArtifact("markdown", "mlflow"),
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._follow,), name="live", daemon=True
        )

    def __enter__(self) -> Live:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._ended.set()
        self._thread.join(timeout=30)

    def _follow(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(EVERY_SECONDS)
            try:
                self._show()
            except Exception as error:
                get_logger("erpd").debug("not shown: %r", error)

    def _show(self) -> None:
        read, self._position = follow(self.recorder.events, self._position)
        events = [event for event in read if event["label"] != SESSION]
        for event in events:
            self._note(event)
        if events:
            self._table.show(
                json.dumps(list(self.stages.values())[-LINES:]), f"{self.recorder.campaign}: stages"
            )
            self._show_bars(events[-1])
            self._show_links()

    def _note(self, event: Mapping[str, Any]) -> None:
        label, status = event["label"], event.get("status")
        if status == "said":
            log_line(label)
            return
        iteration, _, what = label.partition(": ")
        line = self.stages.setdefault(
            label,
            {"iteration": iteration, "stage": what, "status": "", "progress": "", "seconds": ""},
        )
        if status in ("started", "cached", "finished"):
            line["status"] = status
            log_line(f"{label}: {status}")
        if status == "started":
            self._since[label] = event["time"]
        elif status == "finished":
            line["seconds"] = round(event["time"] - self._since.get(label, event["time"]), 1)
            line["progress"] = ""
        elif status is None:
            info = "  ".join(f"{name} {value}" for name, value in event["info"].items())
            line["progress"] = f"{event['done']}/{event['total']}  {info}".strip()
            # Part of another stage: it has no events for its start and end.
            if label not in self._since:
                line["status"] = "finished" if event["done"] == event["total"] else "started"

    def _show_bars(self, last: Mapping[str, Any]) -> None:
        iterations = self.recorder.registry.iterations(self.recorder.campaign)
        done, wanted = sum(row.status == "completed" for row in iterations), self.wanted
        self._campaign.show(min(100.0, 100.0 * done / wanted), f"{done} of {wanted} iterations")
        share = (
            100.0
            if last.get("status") in ("finished", "cached")
            else 100.0 * last.get("done", 0) / max(1, last.get("total", 1))
        )
        self._stage.show(round(share, 1), str(last["label"]))

    def _show_links(self) -> None:
        if (ui := mlflow_ui()) and (pages := self.recorder.tracking.pages()):
            page, charts = pages
            self._links.show(
                f"[This campaign in MLflow]({ui}{page})\n\n[All campaigns side by "
                f"side]({ui}{charts})",
                "MLflow",
            )


def log_line(text: str) -> None:
    """Write a line to the flow run's log, which the UI shows; outside a flow run, do nothing."""
    try:
        get_run_logger().info(one_line(text))
    except MissingContextError:
        return
