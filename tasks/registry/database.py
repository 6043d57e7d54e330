"""Database access of the registry: engine for SQLite or PostgreSQL, schema upgrade, upsert."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from tasks.host.sqlite import damage, is_damage
from tasks.registry.tables import Base

BUSY_SECONDS = 30
"""Seconds that a SQLite connection waits for another writer before it fails."""
AT_ONCE = 1000
"""Identities in one query; databases limit the number of values in a statement."""
_MIGRATION_LOCK = 0x45525044  # "ERPD": key of PostgreSQL's advisory lock
_in_process = threading.Lock()  # alembic's environment is global to the process

MIGRATIONS = Path(__file__).parent / "migrations"
"""Folder of the Alembic migrations."""
_INSERT: dict[str, Callable[[Any], Any]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}


def _plain(value: Any) -> Any:
    """Replace NaN and infinities, which JSON lacks, by "NaN", "Infinity" and "-Infinity".

    Pydantic reads these strings back as floats.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _dumps(value: Any) -> str:
    return json.dumps(_plain(value), allow_nan=False, ensure_ascii=False)


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"the registry is damaged: it contains invalid JSON ({error}); put a backup in its "
            f"place"
        ) from error


def connect(url: str) -> sa.Engine:
    """Create an engine for a SQLite or PostgreSQL URL.

    The folder of a SQLite file is created if needed; its connections wait for each other instead
    of failing.

    **Raises:** ValueError for another kind of database and for a driver that is not installed.
    """
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
        if backend not in _INSERT:
            raise ValueError(
                f"registry URL: {backend!r} is not supported; use sqlite:///PATH or "
                f"postgresql+psycopg://..."
            )
        if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(parsed, json_serializer=_dumps, json_deserializer=_loads)
        if backend == "sqlite":
            _configure_sqlite(engine)
    except (sa.exc.ArgumentError, ModuleNotFoundError) as error:
        raise ValueError(f"registry URL cannot be used: {error}") from error
    return engine


def _configure_sqlite(engine: sa.Engine) -> None:
    """Set up explicit transactions, a write-ahead log and foreign key checks.

    Transactions begin where SQLAlchemy begins them; pysqlite would start them later. Connections to
    a damaged file raise ValueError.
    """

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        connection.execute("PRAGMA foreign_keys = ON")
        _write_ahead(connection)

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        # A writer takes the lock immediately: a transaction that starts as a reader and writes
        # later would fail instead of waiting.
        writing = connection.get_execution_options().get("erpd_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    @sa.event.listens_for(engine, "handle_error")
    def _on_error(context: sa.engine.ExceptionContext) -> None:
        if is_damage(context.original_exception):
            raise _damaged(engine, str(context.original_exception))


def check(engine: sa.Engine) -> None:
    """Check every page of a SQLite database; PostgreSQL does this itself.

    **Raises:** ValueError if it is damaged.
    """
    if engine.dialect.name == "sqlite" and (why := damage(Path(str(engine.url.database)))):
        raise _damaged(engine, why)


def _damaged(engine: sa.Engine, why: str) -> ValueError:
    """The error for a damaged registry.

    Unlike other databases, the registry is not moved aside automatically: decisions of users are
    stored nowhere else.
    """
    place = engine.url.database
    return ValueError(
        f"the registry {place} is damaged ({why}); put a backup in its place, or move it away:"
        " the same commands fill a new one from the store, without the decisions of users"
    )


def _write_ahead(connection: Any) -> None:
    """Set write-ahead mode, so that readers and a writer can work at the same time.

    The mode is stored in the file. SQLite does not wait if two connections set it at the same
    time, so this function retries.
    """
    for _ in range(BUSY_SECONDS * 20):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(0.05)


def writing(engine: sa.Engine) -> sa.Engine:
    """Return the engine with the option for transactions that write."""
    return engine.execution_options(erpd_writes=True)


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: sa.Engine) -> None:
    """Upgrade the schema to the newest revision, in one transaction.

    Several threads or processes may do so at the same time.

    **Raises:** RuntimeError if the database was written by a newer version of this program.
    """
    head = ScriptDirectory.from_config(_config()).get_current_head()
    with engine.connect() as connection:
        if MigrationContext.configure(connection).get_current_revision() == head:
            return
    try:
        _move(engine, command.upgrade, "head")
    except CommandError as error:
        raise RuntimeError(
            f"the registry {engine.url!r} was written by a newer version of erpd; upgrade erpd "
            f"({error})"
        ) from error


def downgrade(engine: sa.Engine, revision: str) -> None:
    """Downgrade the schema to an earlier revision (`base`: no tables).

    Data that later revisions added is lost: make a copy first.
    """
    _move(engine, command.downgrade, revision)


def _move(engine: sa.Engine, move: Callable[[Config, str], None], revision: str) -> None:
    with _in_process, writing(engine).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(
                sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK}
            )
        move(_config(connection), revision)


def upsert(
    session: Session, model: type[Base], row: dict[str, Any], update: Iterable[str] = ()
) -> None:
    """Insert `row`, or update an existing row with the same primary key.

    An update sets the columns named in `update` and leaves the others unchanged.
    """
    keys = [column.name for column in sa.inspect(model).primary_key]
    statement = _INSERT[session.get_bind().dialect.name](model).values(**row)
    changes = {name: statement.excluded[name] for name in update}
    session.execute(
        statement.on_conflict_do_update(index_elements=keys, set_=changes)
        if changes
        else statement.on_conflict_do_nothing()
    )


def parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Split identities into parts that fit into one query."""
    return (ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE))
