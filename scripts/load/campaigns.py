"""Runs campaigns in parallel on one PostgreSQL registry and one MLflow server.

Each is a real `erpd run` with its own ERPD_HOME. All have the same seed, so that they write the
same rows for the base and the benchmark at once; different seeds would hide conflicts. Each must
end in the same numbers as a campaign that runs alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from deployments.servers.local_platform import free_port
from scripts.load.databases import postgres
from tasks.registry import Registry
from tests.helpers import (
    ROOT,
    campaign_arguments,
    environment,
    no_process_left,
    numbers,
    run_campaign,
    tracked,
    wait_until,
)
from tests.postgres import empty_database

PATIENCE = 3600.0
"""Seconds that a campaign may take."""


def measure(folder: Path, count: int, kind: str = "postgresql") -> dict[str, Any]:
    """Measure the seconds of `count` parallel campaigns and of one alone, and check the results.

    The databases are always PostgreSQL's; `kind` has no effect.
    """
    started = time.monotonic()
    alone_folder = folder / "alone"
    alone_folder.mkdir()
    alone = run_campaign(alone_folder, "iterations=1")
    alone_seconds = time.monotonic() - started
    with (
        postgres() as server,
        empty_database(server) as registry_url,
        empty_database(server) as mlflow_db,
    ):
        with mlflow(folder, mlflow_db) as mlflow_url:
            started = time.monotonic()
            running = [
                _start(folder / str(number), number, registry_url, mlflow_url)
                for number in range(count)
            ]
            outputs = [process.communicate(timeout=PATIENCE) for process in running]
            seconds = time.monotonic() - started
        failed = [
            errors
            for process, (_, errors) in zip(running, outputs, strict=True)
            if process.returncode
        ]
        assert not failed, failed[0]
        logs = "".join(errors for _, errors in outputs)
        assert "database is locked" not in logs
        _check_results(alone, [out for out, _ in outputs])
        _check_registry(registry_url, count)
        points = _check_points(mlflow_db, tracked(alone.home), count)
    assert [no_process_left(folder / str(number)) for number in range(count)] == [[]] * count
    return {
        "campaigns_at_once": count,
        "registry": "postgresql",
        "mlflow": "server on postgresql",
        "seconds": round(seconds, 1),
        "alone_seconds": round(alone_seconds, 1),
        "points": points,
        "equal": True,
    }


def _start(home: Path, number: int, registry_url: str, mlflow_url: str) -> subprocess.Popen[str]:
    home.mkdir()
    services = {"ERPD_REGISTRY_URL": registry_url, "ERPD_MLFLOW_URL": mlflow_url}
    command = [
        sys.executable,
        "-m",
        "deployments.cli",
        *campaign_arguments("iterations=1", f"name=load{number}"),
    ]
    return subprocess.Popen(
        command,
        cwd=home,
        env=environment(home, **services),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _check_results(alone: Any, results: list[str]) -> None:
    def figures(result: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in numbers(result).items() if key != "campaign"}

    for result in results:
        assert figures(json.loads(result)) == figures(alone.result), (
            "numbers differ from those of the campaign alone"
        )


def _check_registry(url: str, count: int) -> None:
    with closing(Registry(url)) as registry:
        known = registry.campaigns()
        names = sorted(campaign.name for campaign in known)
        assert names == [f"load{number}" for number in range(count)]
        assert {campaign.status for campaign in known} == {"completed"}
        held = [
            {
                (place.iteration, place.role, place.artifact)
                for place in registry.held()
                if place.campaign == campaign.id
            }
            for campaign in known
        ]
        assert all(places == held[0] for places in held), "artifacts of a campaign are missing"


def _check_points(
    url: str, alone: dict[str, dict[tuple[str, int], list[float | None]]], count: int
) -> int:
    """Check that every campaign has every point of the campaign alone, exactly once."""
    query = sa.text(
        "SELECT c.value, COALESCE(p.value, 'campaign'), m.key, m.step, COUNT(*) FROM metrics m"
        " JOIN tags c ON c.run_uuid = m.run_uuid AND c.key = 'erpd.campaign'"
        " LEFT JOIN tags p ON p.run_uuid = m.run_uuid AND p.key = 'erpd.phase' GROUP BY 1, 2, 3, 4"
    )
    engine = sa.create_engine(url)
    tracked_points: dict[str, set[tuple[str, str, int]]] = {}
    with engine.connect() as connection:
        for campaign, phase, name, step, times in connection.execute(query):
            assert times == 1, f"{campaign}: {phase}: {name} at {step} occurs {times} times"
            tracked_points.setdefault(campaign, set()).add((phase, name, step))
    engine.dispose()
    expected = {(phase, name, step) for phase, points in alone.items() for name, step in points}
    complete = all(points == expected for points in tracked_points.values())
    assert len(tracked_points) == count and complete, "a point is missing"
    return count * len(expected)


@contextmanager
def mlflow(folder: Path, database: str) -> Iterator[str]:
    """Context manager that starts an MLflow server on a database and yields its URL."""
    port = free_port()
    store = ["--backend-store-uri", database, "--artifacts-destination", str(folder / "artifacts")]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *store,
        "--workers",
        "2",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (folder / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(
            command,
            env=environment(folder),
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=ROOT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        assert wait_until(lambda: server.poll() is not None or answers(f"{url}/health"), 300), (
            folder / "mlflow.log"
        ).read_text()
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(url: str) -> bool:
    """Return True if a GET of `url` has status 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
