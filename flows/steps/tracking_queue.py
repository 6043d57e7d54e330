"""Background queue of writes to MLflow, so that no stage waits for MLflow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from prefect.logging import get_logger

from tasks.host.home import home
from tasks.host.services import mlflow_url
from tasks.tracking import TrackedRun, Tracker, is_away

Write = Callable[[Tracker, TrackedRun], object]
_mlflow_lock = threading.Lock()
"""Shared by all campaigns in this process: MLflow's SQLite has one writer, and the drawing of
reports is not thread-safe.
"""
PAUSE_SECONDS = 5.0
"""Time between two tries while MLflow cannot be reached."""
FLUSH_SECONDS = 600.0
"""Longest wait of `TrackingQueue.flush`."""


def open_tracker() -> Tracker:
    url = mlflow_url()
    return Tracker(url, home() / "mlflow" / "artifacts" if url.startswith("sqlite") else None)


class TrackingQueue:
    """Writes to a campaign's MLflow run in the background, in the order they were submitted.

    Reports are written in the same thread. While MLflow cannot be reached, writes wait. Writes that
    are lost with a killed process are repeated when the campaign resumes (see `tasks.tracking`).
    """

    def __init__(self, campaign: str, params: Mapping[str, Any] | None = None) -> None:
        self.campaign = campaign
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracking")
        self._begun = threading.Event()
        self._given_up = threading.Event()
        self._pending: list[Future[Any]] = []
        self._latest: dict[str, int] = {}
        """Name -> number of its last write."""
        self._opened = self._thread.submit(self._open, params or {})

    def begin(self) -> None:
        """Open MLflow and begin to write. A flush begins too.

        The import of MLflow and its database take seconds of a core; at the start of a campaign,
        its stages need both cores.
        """
        self._begun.set()

    def _open(self, params: Mapping[str, Any]) -> tuple[Tracker, TrackedRun]:
        self._begun.wait()
        return self._retrying(lambda: _campaign_run(self.campaign, params))

    def submit_latest(self, name: str, write: Write) -> None:
        """Queue a write that makes earlier ones of this name superfluous.

        Those that have not begun are skipped.
        """
        number = self._latest[name] = self._latest.get(name, 0) + 1
        self.submit(
            lambda tracker, run: write(tracker, run) if self._latest[name] == number else None
        )

    def submit(self, write: Write) -> None:
        """Queue a call of `write(tracker, run)`; it runs in the caller's context."""
        context = copy_context()
        self._pending.append(
            self._thread.submit(self._retrying, lambda: context.run(self._write, write))
        )

    def _write(self, write: Write) -> None:
        opened = self._opened.result()
        with _mlflow_lock:
            write(*opened)

    def _retrying(self, act: Callable[[], Any]) -> Any:
        """Call `act`, and try again while MLflow cannot be reached."""
        while True:
            try:
                return act()
            except Exception as error:
                if not is_away(error) or self._given_up.is_set():
                    raise
                get_logger("erpd").warning(
                    "MLflow cannot be reached, writes to it wait: %s", str(error)[:200]
                )
                self._given_up.wait(PAUSE_SECONDS)

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until everything is written.

        **Raises:** The first error of a write; RuntimeError if MLflow cannot be reached within
            `seconds`.
        """
        self.begin()
        pending, self._pending = self._pending, []
        until = time.monotonic() + seconds
        for write in pending:
            try:
                write.result(max(0.0, until - time.monotonic()))
            except TimeoutError:
                self._given_up.set()
                raise RuntimeError(
                    f"MLflow was away for {seconds:g} s and lacks what was written since; run the "
                    f"same command again to write it"
                ) from None

    def close(self) -> None:
        """Close the queue after a flush."""
        self.begin()
        self._thread.shutdown(wait=False)

    def pages(self) -> tuple[str, str] | None:
        """The paths of the run's page and of the charts of all campaigns (see `Tracker.page`).

        None as long as MLflow has not been reached.
        """
        if not self._opened.done() or self._opened.exception():
            return None
        tracker, run = self._opened.result()
        return tracker.page(run), tracker.charts


def _campaign_run(campaign: str, params: Mapping[str, Any]) -> tuple[Tracker, TrackedRun]:
    with _mlflow_lock:
        tracker = open_tracker()
        return tracker, tracker.campaign_run(campaign, campaign, params, {})
