"""The local platform: Prefect and MLflow servers, on free ports, and the process that serves the
deployments; stopped by pid.
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

from deployments.servers import access
from tasks.host.atomic_files import write_atomically
from tasks.host.home import home
from tasks.host.processes import Process
from tasks.host.services import PLATFORM, mlflow_url
from tasks.host.sqlite import set_aside_if_damaged

SERVING = "serving"
"""File under ERPD_HOME with the pid of the process that serves the deployments, once it does."""
PATIENCE = 240.0
"""Seconds a server may take until it answers."""
_ours: dict[str, Server] = {}
"""By their address, the servers of this home that this process uses."""


class Server(Process):
    """One that is asked over HTTP."""

    url: str
    health: str

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + self.health, timeout=3) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError, ValueError):
            return False


class Served(Process):
    """The one that serves the deployments (`deployments/servers/serve.py`)."""

    def answers(self) -> bool:
        try:
            return int((home() / SERVING).read_text()) == self.pid
        except (FileNotFoundError, ValueError):
            return False


class Platform(BaseModel):
    """What `erpd up` started."""

    prefect: Server
    mlflow: Server | None
    """None where ERPD_MLFLOW_URL names one that is there already."""
    deployments: Served
    host: str = access.LOOPBACK
    """Where its servers listen."""
    login: bool = False
    """Do they ask for one? Always, away from loopback."""

    @property
    def links(self) -> dict[str, str]:
        mlflow = self.mlflow.url if self.mlflow else mlflow_url()
        return {
            "prefect_ui": self.prefect.url,
            "prefect_api": f"{self.prefect.url}/api",
            "mlflow_url": mlflow,
        }

    @property
    def processes(self) -> dict[str, Server | Served]:
        """By the name of their log; the last one to start is the first to stop."""
        return {
            "prefect": self.prefect,
            **({"mlflow": self.mlflow} if self.mlflow else {}),
            "deployments": self.deployments,
        }


def running() -> Platform | None:
    """The platform of this home, if all of it is alive."""
    try:
        platform = Platform.model_validate_json(_state().read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return platform if all(process.alive() for process in platform.processes.values()) else None


def up(host: str = access.LOOPBACK) -> Platform:
    """Start what is not running yet and wait until all of it answers.

    **Raises:** ValueError: it may not listen at `host`, or listens elsewhere already; RuntimeError:
    a server did not answer.
    """
    if platform := running():
        if platform.host != host:
            raise ValueError(
                f"--host {host}: the platform listens at {platform.host} already; `erpd down` first"
            )
        return platform
    access.check_host(host)
    down()
    elsewhere = mlflow_url().startswith("http")
    if not elsewhere:
        from flows.steps.tracking_queue import open_tracker

        # makes the experiment under MLflow's own lock before its server opens the database
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
    """Stop the platform; how many processes were stopped."""
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
    """A Prefect API for this process: the one that PREFECT_API_URL names, the platform's, or a
    server of our own that ends with us.

    Yields the address of its UI, and sets PREFECT_API_URL.
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
    """Send what flows logged while there is a server: at the end of a process it would be sent
    to nobody, for a minute.
    """
    if (module := sys.modules.get("prefect.logging.handlers")) is not None:
        module.APILogHandler().flush()


def wait_for_prefect(url: str) -> None:
    """Wait until the server at `url` answers. Raises RuntimeError when it does not, or was
    started here and has ended.
    """
    deadline = time.monotonic() + PATIENCE
    server = _ours.get(url) or Server(pid=os.getpid(), created=0, url=url, health="/api/health")
    while not server.answers():
        if url in _ours and not server.alive():
            raise RuntimeError(
                f"the Prefect server ended while it started; see {home() / 'logs' / 'prefect.log'}"
            )
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"the Prefect server did not answer within {PATIENCE:.0f} s; see "
                f"{home() / 'logs' / 'prefect.log'}"
            )
        time.sleep(0.2)


def start_prefect(host: str = access.LOOPBACK, with_parent: bool = False) -> Server:
    set_aside_if_damaged(
        home() / "prefect" / "prefect.db", "Prefect's history of runs and its schedules begin anew"
    )
    port = free_port(host)
    env = {"PREFECT_API_URL": f"http://{access.address(host)}:{port}/api"}
    return _start_server(
        "prefect", ["-m", "prefect", "server", "start"], host, port, "/api/health", with_parent, env
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
    """Until it answers. Raises RuntimeError, naming the log, when it ends or takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not server.answers():
        if not server.alive() or time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not start; see {home() / 'logs' / f'{name}.log'}")
        time.sleep(0.2)


def free_port(host: str = access.LOOPBACK) -> int:
    with socket.create_server(
        (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
    ) as probe:
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """A killed `erpd run` leaves no server behind (Linux; elsewhere this does nothing)."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    except (OSError, AttributeError):
        return


def _state() -> Path:
    return home() / PLATFORM


def status() -> dict[str, object]:
    """What runs now."""
    platform = running()
    return {"running": platform is not None, **(platform.links if platform else {})}
