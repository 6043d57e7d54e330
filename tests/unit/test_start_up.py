"""What makes a campaign start fast: imports, and the empty Prefect database."""

from __future__ import annotations

import gc
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from helpers import ROOT, environment

from deployments import warm_up
from deployments.servers import prefect_database
from tasks.host.imports import fast_imports


def test_the_collector_rests_during_imports_and_works_afterwards():
    with fast_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), fast_imports():
        raise ImportError
    assert gc.isenabled()


def test_a_new_home_gets_the_empty_database_and_an_old_one_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    database = tmp_path / "home" / "prefect" / "prefect.db"
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    prefect_database.provide(database)
    assert not database.exists(), "an installation that was not warmed up has none"
    prefect_database.template().parent.mkdir(parents=True)
    prefect_database.template().write_text("migrated")
    prefect_database.provide(database)
    assert database.read_text() == "migrated"
    database.write_text("with runs")
    prefect_database.provide(database)
    assert database.read_text() == "with runs"
    assert [path.name for path in database.parent.iterdir()] == ["prefect.db"]


@pytest.mark.slow
def test_an_installation_is_warmed_up_with_a_database_of_all_migrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "installation"))
    warm_up.main()
    database = prefect_database.template()
    assert database.is_relative_to(tmp_path)
    monkeypatch.setattr(warm_up, "STAGE_MODULES", ("no_such_module",))
    with pytest.raises(SystemExit, match="an import failed"):
        warm_up.main()
    with closing(sqlite3.connect(database)) as connection:
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    (tmp_path / "prefect.db").write_bytes(database.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
        env=environment(tmp_path, PREFECT_HOME=str(tmp_path)),
        capture_output=True,
        timeout=120,
        check=True,
    )
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [
            (revision,)
        ]


TRANSACTION = """
import asyncio, sqlite3, sys
from prefect.server.database import provide_database_interface
from deployments.servers.prefect_server import begin_as_writer

if "as writer" in sys.argv:
    begin_as_writer()

async def main():
    async with provide_database_interface().session_context(begin_transaction=True) as session:
        await session.connection()
        other = sqlite3.connect(sys.argv[1], timeout=0)
        try:
            other.execute("BEGIN IMMEDIATE")
            print("free")
        except sqlite3.OperationalError as error:
            print(error)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "said"), [("as reader", "free"), ("as writer", "locked")])
def test_a_transaction_of_prefects_server_begins_as_a_writer(tmp_path: Path, mode: str, said: str):
    """If Prefect does so itself ("as reader" fails), `begin_as_writer` is no longer needed."""
    database = tmp_path / "prefect.db"
    prefect_database.make_template()
    prefect_database.provide(database)
    url = f"sqlite+aiosqlite:///{database}"
    done = subprocess.run(
        [sys.executable, "-c", TRANSACTION, database, mode],
        env=environment(
            tmp_path, PREFECT_HOME=str(tmp_path), PREFECT_SERVER_DATABASE_CONNECTION_URL=url
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert said in done.stdout
