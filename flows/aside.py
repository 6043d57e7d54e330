"""MLflow beside the work: a thread of its own says there what a flow has to say, so that no stage waits for a view of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from tasks.home import home
from tasks.tracking import TrackedRun, Tracker

Write = Callable[[Tracker, TrackedRun], object]
_one_at_a_time = threading.Lock()
"""Of all campaigns in this process: MLflow's SQLite has one writer, and what draws reports is not made for threads."""


def open_tracker() -> Tracker:
    return Tracker(f"sqlite:///{home() / 'mlflow' / 'mlflow.db'}", home() / "mlflow" / "artifacts")


class Aside:
    """A campaign's run in MLflow and whatever else is done beside the stages, one thing after another in the order it was said.

    What is lost with a killed process is said again by the run that goes on (see `tasks.tracking`).
    """

    def __init__(self, campaign: str, params: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aside")
        self._said: list[Future[Any]] = []
        self._opened = self._thread.submit(_open, campaign, params or {}, tags or {})

    def say(self, write: Write) -> None:
        """Have `write(tracker, run)` called soon, in the caller's context."""
        context = copy_context()
        self._said.append(self._thread.submit(context.run, self._write, write))

    def _write(self, write: Write) -> None:
        opened = self._opened.result()
        with _one_at_a_time:
            write(*opened)

    def settle(self) -> None:
        """Wait until everything is said. Raises what went wrong first."""
        said, self._said = self._said, []
        for one in said:
            one.result()

    def page(self) -> str:
        """The path of the run's page (see `Tracker.page`)."""
        tracker, run = self._opened.result()
        return tracker.page(run)


def _open(campaign: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> tuple[Tracker, TrackedRun]:
    with _one_at_a_time:  # a campaign's own flow and its iterations' open one after the other: the first makes the run, the others find it
        tracker = open_tracker()
        return tracker, tracker.campaign_run(campaign, campaign, params, tags)
