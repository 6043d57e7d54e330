"""MLflow in the background: a campaign has one run, whatever opens it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from deployments.servers.local_platform import free_port
from flows.steps.tracking_queue import TrackingQueue, open_tracker


@pytest.mark.slow
def test_a_flow_and_its_iterations_that_open_at_once_share_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ERPD_HOME", str(tmp_path))
    (tmp_path / "mlflow").mkdir()
    open_tracker()  # creates the database, so that only the run is contended
    for campaign in ("tiny-1", "tiny-2", "tiny-3"):
        queues = [TrackingQueue(campaign) for _ in range(8)]
        for queue in queues:
            queue.submit(lambda tracker, run: None)
            queue.flush()
        assert len({queue.pages() for queue in queues}) == 1


@pytest.mark.slow
def test_of_reports_that_wait_only_the_last_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ERPD_HOME", str(tmp_path))
    (tmp_path / "mlflow").mkdir()
    queue, go, written = TrackingQueue("tiny-1"), threading.Event(), list[str]()
    queue.submit(lambda tracker, run: go.wait(60))
    for number in range(3):
        for name in ("report", "other"):
            text = f"{name} {number}"
            queue.submit_latest(name, lambda tracker, run, text=text: written.append(text))
    go.set()
    queue.flush()
    assert written == ["report 2", "other 2"]
    queue.close()


def test_mlflow_is_opened_when_the_campaign_says_so_and_loses_no_earlier_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened, written = threading.Event(), list[str]()
    monkeypatch.setattr(
        "flows.steps.tracking_queue._campaign_run",
        lambda *of: (opened.set(), ("tracker", "run"))[1],
    )
    queue = TrackingQueue("tiny-1")
    queue.submit(lambda tracker, run: written.append(f"{tracker} {run}"))
    assert not opened.wait(0.2)
    queue.begin()
    assert opened.wait(60)
    queue.flush()
    assert written == ["tracker run"]
    queue.close()


def test_an_mlflow_that_is_away_from_the_beginning_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("ERPD_MLFLOW_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"
    )  # else its thread retries for minutes
    queue = TrackingQueue("tiny-1")
    queue.submit(lambda tracker, run: None)
    assert queue.pages() is None
    with pytest.raises(RuntimeError, match="MLflow was away for 2 s"):
        queue.flush(2)
    assert queue.pages() is None
    queue.close()
