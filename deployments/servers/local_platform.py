"""The local platform: Prefect and MLflow servers, and the process that serves the deployments.

Servers listen on free ports. Processes are stopped by process id.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
from pydantic import BaseModel, ValidationError

from deployments.servers import access, prefect_database
from tasks.host.atomic_files import write_atomically
from tasks.host.home import home
from tasks.host.processes import Process
from tasks.host.services import PLATFORM, mlflow_url
from tasks.host.sqlite import set_aside_if_damaged

SERVING = "serving"
"""File under ERPD_HOME with the pid of the process that serves the deployments.

It exists once that process is ready.
"""
PATIENCE = 240.0
"""Seconds a server may take until it answers."""
_ours: dict[str, Server] = {}
"""Servers of this home that this process uses, by URL."""


class Server(Process):
    """A server that answers over HTTP."""

    url: str
    health: str
    """Path that answers with status 200 once the server is ready."""

    def answers(self) -> bool:
        """Return True if the server is ready."""
        try:
            with urllib.request.urlopen(self.url + self.health, timeout=3) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError, ValueError):
            return False


class Served(Process):
    """The process that serves the deployments (`deployments/servers/serve.py`)."""

    def answers(self) -> bool:
        """Return True if the deployments are served."""
        try:
            return int((home() / SERVING).read_text()) == self.pid
        except (FileNotFoundError, ValueError):
            return False


class Platform(BaseModel):
    """The processes that `erpd up` started."""

    prefect: Server
    mlflow: Server | None
    """None if ERPD_MLFLOW_URL names an existing server."""
    deployments: Served
    host: str = access.LOOPBACK
    """Address that its servers listen on."""
    login: bool = False
    """True if its servers require a login; always so away from loopback."""

    @property
    def links(self) -> dict[str, str]:
        """URLs of the servers, as in the contract's `erpd up --json`."""
        mlflow = self.mlflow.url if self.mlflow else mlflow_url()
        return {
            "prefect_ui": self.prefect.url,
            "prefect_api": f"{self.prefect.url}/api",
            "mlflow_url": mlflow,
        }

    @property
    def processes(self) -> dict[str, Server | Served]:
        """Processes in the order they start, by the name of their log file."""
        return {
            "prefect": self.prefect,
            **({"mlflow": self.mlflow} if self.mlflow else {}),
            "deployments": self.deployments,
        }


def running() -> Platform | None:
    """Return the platform of this home; None unless all its processes are alive."""
    try:
        platform = Platform.model_validate_json(_state().read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return platform if all(process.alive() for process in platform.processes.values()) else None


def up(host: str = access.LOOPBACK) -> Platform:
    """Start the platform, unless it runs, and wait until all of it answers.

    **Raises:** ValueError if it may not listen on `host`, or already listens elsewhere;
        RuntimeError if a server does not answer.
    """
    if platform := running():
        if platform.host != host:
            raise ValueError(
                f"--host {host}: the platform already listens on {platform.host}; run `erpd down` "
                f"first"
            )
        return platform
    access.check_host(host)
    down()
    elsewhere = mlflow_url().startswith("http")
    if not elsewhere:
        from flows.steps.tracking_queue import open_tracker

        # creates the experiment under MLflow's own lock, before its server opens the database
        open_tracker()
    prefect, mlflow = start_prefect(host), None if elsewhere else _start_mlflow(host)
    started: dict[str, Server | Served] = {
        "prefect": prefect,
        **({"mlflow": mlflow} if mlflow else {}),
    }
    try:
        wait(prefect, "prefect")
        started["deployments"] = deployments = _start_serving(prefect)
        for name, process in started.items():
            wait(process, name)
    except BaseException:
        for process in reversed(started.values()):
            process.stop()
        raise
    platform = Platform(
        prefect=prefect,
        mlflow=mlflow,
        deployments=deployments,
        host=host,
        login=access.PREFECT_LOGIN in os.environ,
    )
    write_atomically(_state(), lambda path: path.write_text(platform.model_dump_json(indent=1)))
    return platform


def down() -> int:
    """Stop the platform. Returns the number of processes stopped."""
    try:
        platform = Platform.model_validate_json(_state().read_bytes())
    except (FileNotFoundError, ValidationError):
        return 0
    alive = [process for process in reversed(platform.processes.values()) if process.alive()]
    for process in alive:
        process.stop()
    for path in (_state(), home() / SERVING):
        path.unlink(missing_ok=True)
    return len(alive)


@contextmanager
def prefect_api() -> Iterator[str]:
    """Context manager that provides a Prefect API for this process and yields the URL of its UI.

    It is the one that PREFECT_API_URL names, else the platform's, else a new server that stops with
    this process. Sets PREFECT_API_URL.
    """
    if named := os.environ.get("PREFECT_API_URL"):
        yield named.rstrip("/").removesuffix("/api")
        return
    platform = running()
    if platform and platform.login:
        access.require_login()
    server = platform.prefect if platform else start_prefect(with_parent=True)
    os.environ["PREFECT_API_URL"] = server.url + "/api"
    _ours[server.url] = server
    try:
        yield server.url
    finally:
        del _ours[server.url]
        if platform is None:
            _flush_logs()
            server.stop()


def _flush_logs() -> None:
    """Send the flows' logs before the server stops.

    Otherwise Prefect tries to send them at exit, to a server that is gone, for a minute.
    """
    if (module := sys.modules.get("prefect.logging.handlers")) is not None:
        module.APILogHandler().flush()


def wait_for_prefect(url: str) -> None:
    """Wait until the server at `url` answers.

    **Raises:** RuntimeError if it does not within PATIENCE, or was started by this process and
        died.
    """
    deadline = time.monotonic() + PATIENCE
    server = _ours.get(url) or Server(pid=os.getpid(), created=0, url=url, health="/api/health")
    while not server.answers():
        if url in _ours and not server.alive():
            raise RuntimeError(
                f"the Prefect server died while starting; see {home() / 'logs' / 'prefect.log'}"
            )
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"the Prefect server did not answer within {PATIENCE:.0f} s; see "
                f"{home() / 'logs' / 'prefect.log'}"
            )
        time.sleep(0.2)


def start_prefect(host: str = access.LOOPBACK, with_parent: bool = False) -> Server:
    """Start a Prefect server. `with_parent`: it stops when this process dies (Linux)."""
    database = home() / "prefect" / "prefect.db"
    set_aside_if_damaged(database, "Prefect starts again with no history of runs and no schedules")
    prefect_database.provide(database)
    port = free_port(host)
    env = {"PREFECT_API_URL": f"http://{access.address(host)}:{port}/api"}
    return _start_server(
        "prefect",
        ["-m", "deployments.servers.prefect_server"],
        host,
        port,
        "/api/health",
        with_parent,
        env,
    )


def _start_mlflow(host: str) -> Server:
    port = free_port(host)
    root = home() / "mlflow"
    store = [
        "--backend-store-uri",
        f"sqlite:///{root / 'mlflow.db'}",
        "--artifacts-destination",
        str(root / "artifacts"),
    ]
    command = ["-m", "mlflow", "server", *access.mlflow_arguments(host), *store, "--workers", "1"]
    return _start_server(
        "mlflow", command, host, port, "/health", False, access.mlflow_environment(host)
    )


def _start_serving(prefect: Server) -> Served:
    (home() / SERVING).unlink(missing_ok=True)
    started = _start(
        "deployments",
        ["-m", "deployments.servers.serve"],
        False,
        {"PREFECT_API_URL": prefect.url + "/api"},
        Path.cwd(),
    )
    return Served(**started.model_dump())


def _start_server(
    name: str,
    arguments: list[str],
    host: str,
    port: int,
    health: str,
    with_parent: bool,
    env: dict[str, str],
) -> Server:
    started = _start(
        name, [*arguments, "--host", host, "--port", str(port)], with_parent, env, home()
    )
    return Server(
        **started.model_dump(), url=f"http://{access.address(host)}:{port}", health=health
    )


def _start(
    name: str, arguments: list[str], with_parent: bool, env: dict[str, str], folder: Path
) -> Process:
    log: IO[bytes]
    with (home() / "logs" / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, **env},
            start_new_session=True,
            preexec_fn=_die_with_parent if with_parent else None,
        )
    return Process(pid=process.pid, created=psutil.Process(process.pid).create_time())


def wait(server: Server | Served, name: str) -> None:
    """Wait until it answers. Raises RuntimeError, which names the log, if it dies or times out."""
    deadline = time.monotonic() + PATIENCE
    while not server.answers():
        if not server.alive() or time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not start; see {home() / 'logs' / f'{name}.log'}")
        time.sleep(0.2)


def free_port(host: str = access.LOOPBACK) -> int:
    """Return a port of `host` that is free now."""
    with socket.create_server(
        (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
    ) as probe:
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """Ask Linux to stop this child when its parent dies, so that a killed run leaves no server.

    Elsewhere this does nothing.
    """
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    except (OSError, AttributeError):
        return


def _state() -> Path:
    return home() / PLATFORM


def status() -> dict[str, object]:
    """Return whether the platform runs and, if so, its URLs."""
    platform = running()
    return {"running": platform is not None, **(platform.links if platform else {})}
