"""MLflow goes down during a run: the work continues, and later every point is there once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from helpers import environment, wait_until

from deployments.servers.local_platform import free_port
from flows.steps.tracking_queue import TrackingQueue
from tasks.tracking import Tracker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Mlflow:
    """An MLflow server that can be killed and restarted on the same port and database."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.database = folder / "mlflow.db"
        Tracker(f"sqlite:///{self.database}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        store = [
            "--backend-store-uri",
            f"sqlite:///{self.database}",
            "--artifacts-destination",
            str(self.folder / "artifacts"),
        ]
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            *store,
            "--workers",
            "1",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        log = (self.folder / "log.txt").open("ab")
        self.process = subprocess.Popen(
            command, env=environment(self.folder), stdout=log, stderr=log, start_new_session=True
        )
        assert wait_until(self.answers, 120), (self.folder / "log.txt").read_text()

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def points(self) -> list[tuple[str, int]]:
        engine = sa.create_engine(f"sqlite:///{self.database}")
        with engine.connect() as connection:
            rows = [
                (key, step)
                for key, step in connection.execute(
                    sa.text("SELECT key, step FROM metrics ORDER BY key, step")
                )
            ]
        engine.dispose()
        return rows


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mlflow]:
    server = Mlflow(tmp_path)
    monkeypatch.setenv("ERPD_HOME", str(tmp_path))
    monkeypatch.setenv("ERPD_MLFLOW_URL", server.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server.start()
    yield server
    server.kill()


def log_steps(queue: TrackingQueue, steps: range) -> None:
    for step in steps:
        record = {"step": step, "loss": 1.0 / (1 + step)}
        queue.submit(lambda tracker, run, record=record: tracker.log_records(run, [record]))


def test_what_is_said_during_an_outage_is_there_afterwards_and_nothing_twice(mlflow: Mlflow):
    queue = TrackingQueue("tiny-outage")
    log_steps(queue, range(3))
    queue.flush()
    mlflow.kill()
    began = time.monotonic()
    log_steps(queue, range(2, 6))
    assert time.monotonic() - began < 1, "logging does not wait for the server"
    time.sleep(2)
    mlflow.start()
    queue.flush()
    assert mlflow.points() == [("train/loss", step) for step in range(6)]


@pytest.mark.long
def test_an_outage_without_an_end_is_an_error_that_says_so(mlflow: Mlflow):
    queue = TrackingQueue("tiny-outage")
    queue.flush()
    mlflow.kill()
    log_steps(queue, range(1))
    with pytest.raises(RuntimeError, match="MLflow was away for 3 s"):
        queue.flush(3)
    mlflow.start()
