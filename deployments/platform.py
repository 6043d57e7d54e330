"""The local platform: a Prefect server and an MLflow server on loopback, free ports, everything under ERPD_HOME, stopped by pid."""

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

from tasks.home import home

PATIENCE = 240.0
"""Seconds a server may take until it answers."""


class Server(BaseModel):
    """A server process. `created` tells it from another process that got the same pid later."""

    pid: int
    created: float
    url: str
    health: str

    def alive(self) -> bool:
        try:
            return abs(psutil.Process(self.pid).create_time() - self.created) < 2
        except psutil.Error:
            return False

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + self.health, timeout=3) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError, ValueError):
            return False

    def stop(self) -> None:
        """Stop it and its children: politely, then not."""
        if not self.alive():
            return
        tree = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        for process in tree:
            _signal(process, signal.SIGTERM)
        _, left = psutil.wait_procs(tree, timeout=10)
        for process in left:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(left, timeout=5)


class Platform(BaseModel):
    """What `erpd up` started."""

    prefect: Server
    mlflow: Server

    @property
    def links(self) -> dict[str, str]:
        return {"prefect_ui": self.prefect.url, "prefect_api": self.prefect.url + "/api", "mlflow_url": self.mlflow.url}

    @property
    def servers(self) -> tuple[Server, ...]:
        return (self.prefect, self.mlflow)


def running() -> Platform | None:
    """The platform of this home, if all of it is alive."""
    try:
        platform = Platform.model_validate_json(_state().read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return platform if all(server.alive() for server in platform.servers) else None


def up() -> Platform:
    """Start what is not running yet and wait until all of it answers. Raises RuntimeError, naming the log, when a server does not."""
    if platform := running():
        return platform
    down()
    from flows.aside import open_tracker

    open_tracker()  # makes the experiment under MLflow's own lock before its server opens the database
    platform = Platform(prefect=start_prefect(), mlflow=_start_mlflow())
    try:
        for server, name in ((platform.prefect, "prefect"), (platform.mlflow, "mlflow")):
            wait(server, name)
    except BaseException:
        for server in platform.servers:
            server.stop()
        raise
    _state().write_text(platform.model_dump_json(indent=1))
    return platform


def down() -> int:
    """Stop the platform; how many servers were stopped."""
    try:
        platform = Platform.model_validate_json(_state().read_bytes())
    except (FileNotFoundError, ValidationError):
        return 0
    alive = [server for server in platform.servers if server.alive()]
    for server in alive:
        server.stop()
    _state().unlink(missing_ok=True)
    return len(alive)


@contextmanager
def prefect_api() -> Iterator[str]:
    """A Prefect API for this process: the platform's, or a server of our own that ends with us. Sets PREFECT_API_URL."""
    platform = running()
    server = platform.prefect if platform else start_prefect(with_parent=True)
    os.environ["PREFECT_API_URL"] = server.url + "/api"
    try:
        yield server.url
    finally:
        if platform is None:
            server.stop()


def wait_for_prefect(url: str) -> None:
    """Wait until the server at `url` answers. Raises RuntimeError when it does not."""
    deadline = time.monotonic() + PATIENCE
    server = Server(pid=os.getpid(), created=0, url=url, health="/api/health")
    while not server.answers():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the Prefect server did not answer within {PATIENCE:.0f} s; see {home() / 'logs' / 'prefect.log'}")
        time.sleep(0.2)


def start_prefect(with_parent: bool = False) -> Server:
    port = free_port()
    command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    return _start("prefect", command, port, "/api/health", with_parent, {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"})


def _start_mlflow() -> Server:
    port = free_port()
    root = home() / "mlflow"
    store = ["--backend-store-uri", f"sqlite:///{root / 'mlflow.db'}", "--artifacts-destination", str(root / "artifacts")]
    command = ["-m", "mlflow", "server", *store, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return _start("mlflow", command, port, "/health", False, {})


def _start(name: str, arguments: list[str], port: int, health: str, with_parent: bool, env: dict[str, str]) -> Server:
    log: IO[bytes]
    with (home() / "logs" / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home(),
            env={**os.environ, **env},
            start_new_session=True,
            preexec_fn=_die_with_parent if with_parent else None,
        )
    created = psutil.Process(process.pid).create_time()
    return Server(pid=process.pid, created=created, url=f"http://127.0.0.1:{port}", health=health)


def wait(server: Server, name: str) -> None:
    """Until it answers. Raises RuntimeError, naming the log, when it ends or takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not server.answers():
        if not server.alive() or time.monotonic() > deadline:
            raise RuntimeError(f"the {name} server did not start; see {home() / 'logs' / f'{name}.log'}")
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """A killed `erpd run` leaves no server behind (Linux; elsewhere this does nothing)."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    except (OSError, AttributeError):
        return


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _state() -> Path:
    return home() / "platform.json"


def status() -> dict[str, object]:
    """What runs now."""
    platform = running()
    return {"running": platform is not None, **(platform.links if platform else {})}
