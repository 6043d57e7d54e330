"""Empty databases for load tests: SQLite files, or databases of a PostgreSQL server."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.postgres import empty_database, find_binaries, running


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """Context manager that yields the URL of an empty database, which is removed afterwards."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/registry.db"
        return
    with postgres() as server, empty_database(server) as url:
        yield url


@contextmanager
def postgres() -> Iterator[str]:
    """Context manager that yields the URL of a server. Raises SystemExit if none is available."""
    if url := os.environ.get("ERPD_TEST_POSTGRES"):
        yield url
        return
    binaries = find_binaries()
    if binaries is None:
        raise SystemExit(
            "PostgreSQL is not installed: apt-get install postgresql, or name a server in "
            "ERPD_TEST_POSTGRES"
        )
    with (
        tempfile.TemporaryDirectory(prefix="erpd-pg-", dir="/tmp") as folder,
        running(binaries, Path(folder)) as url,
    ):
        yield url
