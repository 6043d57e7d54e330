"""A PostgreSQL server for the tests: one in a temporary folder, or the one that ERPD_TEST_POSTGRES
names.

PostgreSQL refuses to run as root, so under root it runs as the user that Debian's package makes, or
as nobody.
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
"""Of every server that these tests start."""
PATIENCE = 60.0
"""Seconds the server may take until it answers, and until it has stopped."""


@contextmanager
def server() -> Iterator[str]:
    """URL of a server one may create databases on; skips the test, naming what is missing, where
    there can be none.
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
    """The folder of the newest `initdb` and `postgres`: where Debian puts them, else on the
    path.
    """
    versions = [
        path.parent
        for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")
        if (path.parent / "postgres").exists()
    ]
    if versions:
        return max(versions, key=lambda path: float(path.parent.name))
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found and shutil.which("postgres") else None


class Server:
    """A server whose files are in `folder`, on a port of loopback, with a password. It may be
    killed, and started again as it was.
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
        # PostgreSQL's fast shutdown: connections are ended, nothing is waited for
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE)


@contextmanager
def running(binaries: Path, folder: Path) -> Iterator[str]:
    """A server whose files are in `folder`; its URL. It is stopped by its pid."""
    one = Server(binaries, folder)
    try:
        one.start()
        yield one.url
    finally:
        one.stop()


@contextmanager
def empty_database(server_url: str) -> Iterator[str]:
    """A new database on a server, dropped in the end; its URL."""
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
    """Who the server runs as; None for ourselves."""
    if os.geteuid() != 0:
        return None
    known = {user.pw_name: user for user in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]


def die_with_parent() -> None:
    """In the child: the server ends with the tests, even if they are killed."""
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
