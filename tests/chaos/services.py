"""The services a campaign leans on, as real processes on loopback that may be killed and started
again: PostgreSQL for the registry and both servers, Prefect's server, MLflow's, a Ray head and a
Ray worker; and what serves the deployments, when a trial asks for it.
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
"""Seconds a service may take until it answers, on a busy machine."""
STARTS = 3
"""Of Ray's nodes about one in ten does not come up on a busy machine; an operator starts it
again.
"""
NODES = {"ray-head": "127.0.0.2", "ray-worker": "127.0.0.3"}
"""Two machines, as far as Ray is concerned."""


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL, at once; returns when they are gone."""
    processes = list(processes)
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    _, left = psutil.wait_procs(processes, timeout=30)
    assert not alive(left), left


@dataclass
class Service:
    """A command that stays; `health` asks whether it answers."""

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
        """Until it answers."""
        starts, until = 1, time.monotonic() + PATIENCE
        while not self.health():
            assert time.monotonic() < until, f"{self.name} does not answer: {self.said()}"
            if self.process is None or self.process.poll() is not None:
                assert starts < STARTS, f"{self.name} does not start: {self.said()}"
                starts += 1
                self.start()
            time.sleep(0.2)

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-4000:]

    def family(self) -> list[psutil.Process]:
        """It and what it started, as far as it is alive."""
        if self.process is None:
            return []
        with suppress(psutil.Error):
            return alive([self.process, *self.process.children(recursive=True)])
        return []

    def kill(self) -> None:
        """With all it started, as when its machine goes."""
        kill(self.family())

    def stop(self) -> None:
        """As an operator does: asked to, then not."""
        family = self.family()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=20)
        kill(left)


@dataclass
class House:
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
        """The environment of whoever runs a campaign here."""
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
        """All but what serves the deployments."""
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
        """The head, and then its worker: of nodes that start at one time on one machine, some do
        not come up.

        What is left of the cluster before goes first: while a worker of it lives, Ray says that its
        head does.
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
            "RAY_worker_niceness": "0",  # they share two cores with the services, and would starve
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

    # -------------------------------------------------------------------------------- what is asked

    def prefect(self, path: str, body: Any = None) -> Any:
        """What Prefect's API answers: to a POST, where there is a body."""
        url = f"{self.url('prefect')}/api{path}"
        answer = (
            httpx.get(url, timeout=60) if body is None else httpx.post(url, json=body, timeout=60)
        )
        return answer.raise_for_status().json()

    def at_work(self) -> dict[psutil.Process, str]:
        """What Ray is doing at this moment: worker process -> name of the task, or of the
        actor's class and method.
        """
        found = {}
        for name in NODES:
            for process in self.services[name].family():
                with suppress(psutil.Error, IndexError):  # it has ended meanwhile
                    title = process.cmdline()[0]
                    if title.startswith("ray::") and not title.startswith(
                        ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
                    ):
                        found[process] = title.removeprefix("ray::").split()[0]
        return found

    def strangers(self) -> list[psutil.Process]:
        """Processes of the home that belong to none of the services: who runs a campaign, and
        what that started.
        """
        known = {process for service in self.services.values() for process in service.family()}
        return [process for process in processes_of(self.home) if process not in known]

    def left(self, patience: float) -> list[str]:
        """Who is still there `patience` seconds after a campaign's end: strangers, and whatever
        Ray is doing.
        """
        wait_until(lambda: not (self.strangers() or self.at_work()), patience)
        return [" ".join(process.cmdline())[:200] for process in alive(self.strangers())] + sorted(
            self.at_work().values()
        )


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def house() -> Iterator[House]:
    """The services, started; stopped in the end, with nothing left."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    names = ("prefect", "mlflow", "ray-head", *(f"{name} node" for name in NODES))
    with tempfile.TemporaryDirectory(prefix="e-", dir="/tmp", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        folder.chmod(0o755)  # PostgreSQL's own user goes through it
        for name in ("postgres", "home", "user", "cwd", "files"):
            (folder / name).mkdir()
        one = House(
            folder, Server(binaries, folder / "postgres"), {name: free_port() for name in names}
        )
        try:
            one.start()
            yield one
        finally:
            one.stop()
            left = no_process_left(folder)
            kill(processes_of(folder))
        assert left == [], left
