"""The services of docker/compose.yaml as plain processes on loopback.

They have their own commands, environments and health checks. What containers add (images, networks,
volumes, limits, restarts) is missing: that needs an engine.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import compose
import psutil
import pytest
import sqlalchemy as sa
from helpers import ROOT, environment
from postgres import find_binaries, running

from deployments.servers.local_platform import free_port

PATIENCE = 300.0
STARTS = 3
NODES = {
    "ray-head": "127.0.0.2",
    "ray-worker": "127.0.0.3",
    "ray-worker-2": "127.0.0.4",
    "prefect-worker": "127.0.0.5",
}
"""Loopback addresses that Ray takes for four machines.

`ray start` replaces 127.0.0.1 by the machine's own address.
"""
SERVICES = ("prefect-server", "mlflow", "ray-head", "ray-worker", "ray-worker-2", "prefect-worker")
"""The long-running services, in start order. `NAME-2` is the one that `--scale NAME=2` adds."""


@dataclass
class Cluster:
    """The compose file on this machine: each service a process, on loopback names and ports."""

    folder: Path
    code: Path
    """The folder that is /opt/erpd in an image."""
    given: dict[str, str]
    """The variables that docker/.env would set."""
    ports: dict[str, int]
    started: dict[str, psutil.Popen] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Service -> seconds from its start until its health check passed."""

    def address(self, name: str) -> str:
        """Address of a service's Ray node."""
        return f"{NODES.get(name, '127.0.0.1')}:{self.ports.get(name, 0)}"

    def local(self, text: str, name: str) -> str:
        """Replace a container's names and paths in a text by this machine's.

        The text is a word of a service's command, or the value of a variable.
        """
        prefect = f"127.0.0.1:{self.ports['prefect-server']}"
        here = {
            r"@postgres/": f"@127.0.0.1:{self.ports['postgres']}/",
            r"^(http://)(prefect-server|127\.0\.0\.1):4200": rf"\g<1>{prefect}",
            r"^(http://)(mlflow|127\.0\.0\.1):5000": rf"\g<1>127.0.0.1:{self.ports['mlflow']}",
            r"^(http://127\.0\.0\.1):8080": rf"\g<1>:{self.ports['health']}",
            r"^4200$": str(self.ports["prefect-server"]),
            r"^5000$": str(self.ports["mlflow"]),
            r"^0\.0\.0\.0$": "127.0.0.1",
            r"^(ray-head|127\.0\.0\.1):6379$": self.address("ray-head"),
            r"^127\.0\.0\.1:6380$": self.address(name),
            r"^/opt/erpd": str(self.code),
            r"^/(erpd|mlflow)(?=/|$)": f"{self.folder}/\\1",
            r"^/?(docker/)?(\w[\w-]*\.(sh|py))$": f"{self.code}/docker/\\2",
        }
        for pattern, value in here.items():
            text = re.sub(pattern, value, text)
        return text

    def service(self, name: str) -> dict[str, Any]:
        service: dict[str, Any] = compose.interpolated(
            compose.written()["services"][name.removesuffix("-2")], self.given
        )
        return service

    def environment(self, name: str) -> dict[str, str]:
        """A service's environment: variables of the image, the compose file and this machine."""
        own = {
            key: self.local(value, name)
            for key, value in self.service(name).get("environment", {}).items()
            if key != "PGHOST"
        }
        here = {
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "PYTHONPATH": str(self.code),
            "OMP_NUM_THREADS": "1",
            "ERPD_CODE": str(self.code),
            "RAY_TMPDIR": str(self.folder),
            "RAY_NODE_IP": self.address(name).partition(":")[0],
            # Here they share two cores with all other services and would starve.
            "RAY_worker_niceness": "0",
            "RAY_HEAD_PORT": str(self.ports["ray-head"]),
            "RAY_NODE_PORT": str(free_port() if name == "ray-head" else self.ports.get(name, 0)),
            "PREFECT_WORKER_WEBSERVER_PORT": str(self.ports["health"]),
        }
        database = {"PGHOST": "127.0.0.1", "PGPORT": str(self.ports["postgres"])}
        return environment(self.folder / name, **(here | own | database))

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def start(self, name: str) -> None:
        """Run the service's command through the image's entry point."""
        words = [self.local(word, name) for word in self.service(name)["command"]]
        command = [sys.executable, str(self.code / "docker" / "start.py"), *words]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.started[name] = psutil.Popen(
                command,
                cwd=self.code,
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.began[name] = time.monotonic()

    def healthy(self, name: str) -> bool:
        _, program, *arguments = self.service(name)["healthcheck"]["test"]
        assert program == "python"
        command = [sys.executable, *(self.local(word, name) for word in arguments)]
        return (
            subprocess.run(
                command, cwd=self.code, env=self.environment(name), capture_output=True, timeout=60
            ).returncode
            == 0
        )

    def wait(self, *names: str) -> None:
        """Wait until their health checks pass.

        A service that ends is restarted, as an engine does: on a busy machine Ray may need that.
        """
        for name in names:
            starts = 1
            deadline = time.monotonic() + PATIENCE
            while not self.healthy(name):
                assert time.monotonic() < deadline, self.log(name)[-4000:]
                if self.started[name].poll() is not None:
                    assert starts < STARTS, self.log(name)[-4000:]
                    starts += 1
                    self.start(name)
                time.sleep(0.2)
            self.seconds[name] = time.monotonic() - self.began[name]

    def at_work(self, name: str) -> set[str]:
        """What Ray runs on a node right now: names of tasks, or of actors' classes and methods."""
        titles = []
        for process in self.started[name].children(recursive=True):
            with suppress(psutil.Error):  # the process has ended
                titles += process.cmdline()[:1]
        named = {
            title.removeprefix("ray::").split()[0] for title in titles if title.startswith("ray::")
        }
        return {
            name
            for name in named
            if not name.startswith(("IDLE", "DashboardAgent", "RuntimeEnvAgent"))
        }

    def megabytes(self, name: str) -> int:
        """Unshared memory of its processes, in MiB. Ray's idle workers may come and go."""
        total = 0
        for process in [self.started[name], *self.started[name].children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().uss
        return total >> 20

    def stop(self, name: str) -> list[str]:
        """Stop a service as an engine does, by SIGTERM to its first process. Processes that are
        still there after 60 s are killed.

        **Returns:** The command lines of the killed processes.
        """
        process = self.started.pop(name)
        if process.poll() is not None:
            return ["it had ended before"]
        family = [process, *process.children(recursive=True)]
        titles = {}
        for member in family:
            with suppress(psutil.NoSuchProcess):
                titles[member.pid] = " ".join(member.cmdline())
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, left = psutil.wait_procs(family, timeout=60)
        self.seconds[f"{name} stopped"] = time.monotonic() - began
        for member in left:
            member.kill()
        psutil.wait_procs(left, timeout=10)
        return [titles[member.pid] for member in left]

    def run(self, name: str) -> None:
        """Run a one-shot service to its end."""
        (script,) = self.service(name)["command"]
        subprocess.run(
            [self.local(script, name)], env=self.environment(name), check=True, timeout=60
        )

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def sql(self, role: str, password: str, database: str, statement: str) -> list[tuple[Any, ...]]:
        url = sa.URL.create(
            "postgresql+psycopg", role, password, "127.0.0.1", self.ports["postgres"], database
        )
        return sql(url, statement)

    def prefect(self, path: str, body: Any = None, method: str | None = None) -> Any:
        status, answer = fetch(
            self.url("prefect-server") + "/api" + path,
            f"admin:{self.given['PREFECT_PASSWORD']}",
            body,
            method,
        )
        assert status < 300, (path, status, answer)
        return answer


def fetch(
    url: str, user: str = "", body: Any = None, method: str | None = None, **headers: str
) -> tuple[int, Any]:
    """Send a request; returns the status and the response as JSON, or as text if it is not JSON."""
    request = urllib.request.Request(
        url, None if body is None else json.dumps(body).encode(), method=method, headers=headers
    )
    request.add_header("Content-Type", "application/json")
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            status, data = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, data = error.code, error.read()
    try:
        return status, json.loads(data)
    except ValueError:
        return status, data.decode(errors="replace")


@contextmanager
def database_server(folder: Path, superuser: str) -> Iterator[int]:
    """A PostgreSQL like the image's: `postgres` is the superuser, with the given password.

    Yields its port.
    """
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder.mkdir()
    with running(binaries, folder) as url:
        server = sa.make_url(url)
        sql(server, f"CREATE ROLE postgres SUPERUSER LOGIN PASSWORD '{superuser}'")
        sql(
            server.set(username="postgres", password=superuser),
            f"ALTER ROLE {server.username} RENAME TO installer",
        )
        assert server.port is not None
        yield server.port


def sql(url: sa.URL, statement: str) -> list[tuple[Any, ...]]:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            answer = connection.execute(sa.text(statement))
            return [tuple(row) for row in answer] if answer.returns_rows else []
    finally:
        engine.dispose()


def copy_code(target: Path) -> None:
    """Copy exactly the files that go into an image."""
    lines = (ROOT / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for name in [line[1:] for line in lines if line.startswith("!")]:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name,
                target / name,
                ignore=shutil.ignore_patterns("__pycache__", ".env", "*.env"),
            )
        else:
            target.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, target / name)
