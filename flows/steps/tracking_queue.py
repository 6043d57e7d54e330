"""MLflow beside the work: a thread of its own says there what a flow has to say, so that no
stage waits for a view of it.
"""

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
"""Of all campaigns in this process: MLflow's SQLite has one writer, and what draws reports is
not made for threads.
"""


PAUSE_SECONDS = 5.0
FLUSH_SECONDS = 600.0
_lock = threading.Lock()
_queues: dict[str, TrackingQueue] = {}
"""The open ones: a campaign's flow and its iterations' share one, whose thread tells in the
order of what happened.
"""


def open_tracker() -> Tracker:
    url = mlflow_url()
    return Tracker(url, home() / "mlflow" / "artifacts" if url.startswith("sqlite") else None)


class TrackingQueue:
    """A campaign's run in MLflow and whatever else is done beside the stages, one thing after
    another in the order it was said.

    While MLflow cannot be reached, what was said waits. What is lost with a killed process is said
    again by the run that goes on (see `tasks.tracking`).
    """

    def __init__(
        self,
        campaign: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.campaign = campaign
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracking")
        self._given_up = threading.Event()
        self._pending: list[Future[Any]] = []
        self._opened = self._thread.submit(
            self._retrying, lambda: _open(campaign, params or {}, tags or {})
        )
        with _lock:
            _queues[campaign] = self

    @classmethod
    def of(cls, campaign: str) -> TrackingQueue:
        """The one that this process has for the campaign."""
        with _lock:
            found = _queues.get(campaign)
        return found or cls(campaign)

    def submit(self, write: Write) -> None:
        """Have `write(tracker, run)` called soon, in the caller's context."""
        context = copy_context()
        self._pending.append(
            self._thread.submit(self._retrying, lambda: context.run(self._write, write))
        )

    def _write(self, write: Write) -> None:
        opened = self._opened.result()
        with _mlflow_lock:
            write(*opened)

    def _retrying(self, act: Callable[[], Any]) -> Any:
        """Do it, again and again while MLflow is away."""
        while True:
            try:
                return act()
            except Exception as error:
                if not is_away(error) or self._given_up.is_set():
                    raise
                get_logger("erpd").warning(
                    "MLflow is away, what it is told waits: %s", str(error)[:200]
                )
                self._given_up.wait(PAUSE_SECONDS)

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until everything is said. Raises what went wrong first; RuntimeError when MLflow
        stayed away for so long.
        """
        said, self._pending = self._pending, []
        until = time.monotonic() + seconds
        for one in said:
            try:
                one.result(max(0.0, until - time.monotonic()))
            except TimeoutError:
                self._given_up.set()
                raise RuntimeError(
                    f"MLflow was away for {seconds:g} s: it misses what it was told since; the "
                    f"same command tells it again"
                ) from None

    def close(self) -> None:
        """Everything is said; the next to ask for this campaign's opens another."""
        with _lock:
            if _queues.get(self.campaign) is self:
                del _queues[self.campaign]
        self._thread.shutdown(wait=False)

    def pages(self) -> tuple[str, str] | None:
        """The paths of the run's page and of all campaigns' charts (see `Tracker.page`); None as
        long as MLflow was not reached.
        """
        if not self._opened.done() or self._opened.exception():
            return None
        tracker, run = self._opened.result()
        return tracker.page(run), tracker.charts


def _open(
    campaign: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> tuple[Tracker, TrackedRun]:
    # a campaign's own flow and its iterations' open one after the other: the first makes the run,
    # the others find it
    with _mlflow_lock:
        tracker = open_tracker()
        return tracker, tracker.campaign_run(campaign, campaign, params, tags)
