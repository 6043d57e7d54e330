"""The services of a campaign, as real processes on loopback that can be killed and restarted.

PostgreSQL for the registry and both servers, Prefect's server, MLflow's, a Ray head and a Ray
worker; and `deployments.servers.serve` if a trial needs it.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import sqlalchemy as sa
from helpers import ROOT, environment, no_process_left, processes_of, wait_until
from postgres import Server, find_binaries

from deployments.servers.local_platform import SERVING, free_port

PATIENCE = 240.0
"""Seconds until a service must respond, on a busy machine."""
STARTS = 3
"""How often a service is started at most.

About one in ten Ray nodes does not come up on a busy machine; an operator restarts it.
"""
NODES = {"ray-head": "127.0.0.2", "ray-worker": "127.0.0.3"}
"""Loopback addresses that Ray takes for two machines."""


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    living = []
    for process in processes:
        with suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
    return living


def kill(processes: Iterable[psutil.Process]) -> None:
    """Send SIGKILL to all processes; returns when they are gone."""
    processes = list(processes)
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    _, left = psutil.wait_procs(processes, timeout=30)
    assert not alive(left), left


@dataclass
class Service:
    """A command that keeps running; `health` checks whether it responds."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    health: Callable[[], bool]
    process: psutil.Popen | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = psutil.Popen(
                [sys.executable, str(ROOT / "docker" / "start.py"), *self.command],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until the service responds; restart it if it ends."""
        starts, until = 1, time.monotonic() + PATIENCE
        while not self.health():
            assert time.monotonic() < until, f"{self.name} does not respond: {self.log_tail()}"
            if self.process is None or self.process.poll() is not None:
                assert starts < STARTS, f"{self.name} does not start: {self.log_tail()}"
                starts += 1
                self.start()
            time.sleep(0.2)

    def log_tail(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-4000:]

    def family(self) -> list[psutil.Process]:
        """The service's live processes, children included."""
        if self.process is None:
            return []
        with suppress(psutil.Error):
            return alive([self.process, *self.process.children(recursive=True)])
        return []

    def kill(self) -> None:
        """Kill the service with its children, as if its machine went down."""
        kill(self.family())

    def stop(self) -> None:
        """Stop the service as an operator does: SIGTERM, then SIGKILL after 20 s."""
        family = self.family()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=20)
        kill(left)


@dataclass
class Stack:
    """All services of one home."""

    folder: Path
    postgres: Server
    ports: dict[str, int]
    token: str = field(default_factory=lambda: secrets.token_hex(24), repr=False)
    services: dict[str, Service] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def database(self, name: str, driver: str = "psycopg") -> str:
        url = sa.make_url(self.postgres.url).set(database=name, drivername=f"postgresql+{driver}")
        return url.render_as_string(hide_password=False)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def variables(self) -> dict[str, str]:
        """Environment of a process that runs a campaign on this stack."""
        return environment(
            self.home,
            ERPD_REGISTRY_URL=self.database("erpd"),
            ERPD_MLFLOW_URL=self.url("mlflow"),
            ERPD_RAY_ADDRESS=f"{NODES['ray-head']}:{self.ports['ray-head']}",
            PREFECT_API_URL=f"{self.url('prefect')}/api",
            RAY_NODE_IP=NODES["ray-head"],
            HOME=str(self.folder / "user"),
            **self._ray(),
        )

    def _ray(self) -> dict[str, str]:
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_TMPDIR": str(self.folder),
        }

    # -------------------------------------------------------------------------------- start and end

    def start(self) -> None:
        """Start all services except the one that serves the deployments."""
        self.postgres.start()
        engine = sa.create_engine(self.postgres.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for name in ("erpd", "prefect", "mlflow"):
                connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        database = self.database("prefect", "asyncpg")
        prefect = [
            sys.executable,
            "-m",
            "prefect",
            "server",
            "start",
            *self._at("prefect"),
            "--no-ui",
        ]
        self._add(
            "prefect", prefect, {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database}, "/api/health"
        )
        files = ["--workers", "1", "--artifacts-destination", str(self.folder / "files")]
        mlflow = [sys.executable, "-m", "mlflow", "server", *self._at("mlflow"), *files]
        self._add(
            "mlflow", mlflow, {"MLFLOW_BACKEND_STORE_URI": self.database("mlflow")}, "/health"
        )
        serve = [sys.executable, "-m", "deployments.servers.serve"]
        self.services["deployments"] = Service(
            "deployments", serve, self.variables(), self.folder / "deployments.log", self._serving
        )
        for name in NODES:
            self._add_node(name)
        for name in ("prefect", "mlflow"):
            self.services[name].start()
        self.start_ray()
        for name in ("prefect", "mlflow"):
            self.services[name].wait()

    def start_ray(self) -> None:
        """Start the head, then its worker.

        Of nodes started together on one machine, some do not come up. The old cluster is stopped
        first: while one of its workers lives, Ray reports its head as alive.
        """
        for name in NODES:
            self.services[name].stop()
        for name in NODES:
            self.services[name].start()
            self.services[name].wait()

    def stop(self) -> None:
        for service in reversed(self.services.values()):
            service.stop()
        if self.postgres.process.poll() is None:
            self.postgres.stop()

    def _serving(self) -> bool:
        path, process = self.home / SERVING, self.services["deployments"].process
        return process is not None and path.exists() and path.read_text() == str(process.pid)

    def _at(self, name: str) -> list[str]:
        return ["--host", "127.0.0.1", "--port", str(self.ports[name])]

    def _add(self, name: str, command: list[str], more: Mapping[str, str], health: str) -> None:
        own = {"PREFECT_API_URL": f"{self.url(name)}/api"} if name == "prefect" else {}
        variables = environment(self.folder / name, **own, **more)
        self.services[name] = Service(
            name,
            command,
            variables,
            self.folder / f"{name}.log",
            lambda: answers(self.url(name) + health),
        )

    def _add_node(self, name: str) -> None:
        role = name.removeprefix("ray-")
        variables = self.variables() | {
            "RAY_NODE_IP": NODES[name],
            "RAY_NODE_PORT": str(self.ports[f"{name} node"]),
            "RAY_HEAD_PORT": str(self.ports["ray-head"]),
            "RAY_WORKER_CPUS": "2",
            "RAY_worker_niceness": "0",  # workers share two cores with the services: would starve
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        }
        port = self.ports[name] if role == "head" else self.ports[f"{name} node"]
        health = [sys.executable, str(ROOT / "docker" / "health.py"), f"{NODES[name]}:{port}"]

        def healthy() -> bool:
            return (
                subprocess.run(health, env=variables, capture_output=True, timeout=60).returncode
                == 0
            )

        self.services[name] = Service(
            name,
            [str(ROOT / "docker" / "ray-node.sh"), role],
            variables,
            self.folder / f"{name}.log",
            healthy,
        )

    # -------------------------------------------------------------------------------------- queries

    def prefect(self, path: str, body: Any = None) -> Any:
        """Response of Prefect's API to a GET, or to a POST if there is a body."""
        url = f"{self.url('prefect')}/api{path}"
        answer = (
            httpx.get(url, timeout=60) if body is None else httpx.post(url, json=body, timeout=60)
        )
        return answer.raise_for_status().json()

    def at_work(self) -> dict[psutil.Process, str]:
        """What Ray runs right now: worker process -> task name, or an actor's class and method."""
        busy = {}
        for name in NODES:
            for process in self.services[name].family():
                with suppress(psutil.Error, IndexError):  # the process has ended
                    title = process.cmdline()[0]
                    if title.startswith("ray::") and not title.startswith(
                        ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
                    ):
                        busy[process] = title.removeprefix("ray::").split()[0]
        return busy

    def campaign_processes(self) -> list[psutil.Process]:
        """Processes of the home outside all services: a campaign's process and its children."""
        known = {process for service in self.services.values() for process in service.family()}
        return [process for process in processes_of(self.home) if process not in known]

    def leftovers(self, patience: float) -> list[str]:
        """Campaign processes and Ray work still there `patience` seconds after a campaign's end."""
        wait_until(lambda: not (self.campaign_processes() or self.at_work()), patience)
        return [
            " ".join(process.cmdline())[:200] for process in alive(self.campaign_processes())
        ] + sorted(self.at_work().values())


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def running_stack() -> Iterator[Stack]:
    """Start the services; stop them at the end and check that no process is left."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    names = ("prefect", "mlflow", "ray-head", *(f"{name} node" for name in NODES))
    with tempfile.TemporaryDirectory(prefix="e-", dir="/tmp", ignore_cleanup_errors=True) as path:
        folder = Path(path)
        folder.chmod(0o755)  # PostgreSQL's user must reach its folder
        for name in ("postgres", "home", "user", "cwd", "files"):
            (folder / name).mkdir()
        stack = Stack(
            folder, Server(binaries, folder / "postgres"), {name: free_port() for name in names}
        )
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()
            left = no_process_left(folder)
            kill(processes_of(folder))
        assert left == [], left
