"""A PostgreSQL server for the tests: one in a temporary folder, or the one at ERPD_TEST_POSTGRES.

PostgreSQL refuses to run as root. Under root it runs as the user of Debian's package, or as nobody.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from deployments.servers.local_platform import free_port

PASSWORD = secrets.token_hex(16)
"""Password of every server that the tests start."""
PATIENCE = 60.0
"""Seconds that the server may take to start, and to stop."""


@contextmanager
def server() -> Iterator[str]:
    """URL of a server on which databases can be created.

    Skips the test, saying what is missing, if there is none.
    """
    pytest.importorskip(
        "psycopg", reason="PostgreSQL's driver is not installed: pip install 'psycopg[binary]'"
    )
    if named := os.environ.get("ERPD_TEST_POSTGRES"):
        url = sa.make_url(named)
        if url.password:
            os.environ["PGPASSWORD"] = str(url.password)
        yield url.set(password=None).render_as_string()
        return
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with (
        tempfile.TemporaryDirectory(prefix="erpd-pg-", dir="/tmp") as folder,
        running(binaries, Path(folder)) as url,
    ):
        yield url


def find_binaries() -> Path | None:
    """The folder of the newest `initdb` and `postgres`: Debian's, else the one on the path."""
    versions = [
        path.parent
        for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")
        if (path.parent / "postgres").exists()
    ]
    if versions:
        return max(versions, key=lambda path: float(path.parent.name))
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb and shutil.which("postgres") else None


class Server:
    """A server with its files in `folder`, on a loopback port, with a password.

    After a kill it can be started again.
    """

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries, self.folder, self.port = binaries, folder, free_port()
        user = unprivileged()
        (folder / "password").write_text(PASSWORD)
        os.environ["PGPASSWORD"] = PASSWORD  # a URL with one is refused
        if user:
            for path in (folder, folder / "password"):
                os.chown(path, user.pw_uid, user.pw_gid)
        self.who: dict[str, Any] = (
            {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        )
        self.url = f"postgresql+psycopg://erpd@127.0.0.1:{self.port}/postgres"
        make = [
            "--auth=scram-sha-256",
            "--username=erpd",
            f"--pwfile={folder}/password",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]
        command = [binaries / "initdb", "-D", folder / "data", *make]
        made = subprocess.run(command, capture_output=True, text=True, cwd=folder, **self.who)
        assert made.returncode == 0, made.stderr

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("a") as log:
            command = [self.binaries / "postgres", "-D", self.folder / "data", *options]
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=die_with_parent,
                **self.who,
            )
        wait_for(self.process, self.url, self.folder / "log")

    def stop(self) -> None:
        # PostgreSQL's fast shutdown: it closes the connections and does not wait for clients.
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE)


@contextmanager
def running(binaries: Path, folder: Path) -> Iterator[str]:
    """Run a server with its files in `folder`; yields its URL. It is stopped by its pid."""
    server = Server(binaries, folder)
    try:
        server.start()
        yield server.url
    finally:
        server.stop()


@contextmanager
def empty_database(server_url: str) -> Iterator[str]:
    """Create a database on a server and yield its URL. It is dropped at the end."""
    server = sa.create_engine(server_url, isolation_level="AUTOCOMMIT")
    name = f"erpd_test_{uuid.uuid4().hex[:12]}"
    with server.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    try:
        yield server.url.set(database=name).render_as_string(hide_password=False)
    finally:
        with server.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


def unprivileged() -> pwd.struct_passwd | None:
    """The user that the server runs as; None for this process's user."""
    if os.geteuid() != 0:
        return None
    known = {user.pw_name: user for user in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]


def die_with_parent() -> None:
    """Called in the child: makes the server end with the tests, even if they are killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGINT)


def wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    engine = sa.create_engine(url)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            engine.connect().close()
            break
        except sa.exc.OperationalError:
            assert process.poll() is None and time.monotonic() < deadline, (
                f"PostgreSQL does not answer: {log.read_text()}"
            )
            time.sleep(0.1)
    engine.dispose()
