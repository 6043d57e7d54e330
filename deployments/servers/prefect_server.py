"""`prefect server start`, faster: imports at full speed, and no lost transactions on SQLite.

    python -m deployments.servers.prefect_server --host 127.0.0.1 --port 4200

Prefect has no setting for either.
"""

from __future__ import annotations

import sys
from contextlib import AbstractAsyncContextManager
from typing import Any

from tasks.host.imports import fast_imports


def main() -> None:
    """Start the server; the arguments are those of `prefect server start`."""
    with fast_imports():
        import prefect.server.api.server  # noqa: F401 (the server imports it later)
        from prefect.cli import app
    begin_as_writer()
    sys.argv[1:1] = ["server", "start"]
    app()


def begin_as_writer() -> None:
    """Let every transaction of this process's SQLite database begin as a writer.

    Prefect 3.7 begins most of them as readers. If another transaction writes before one of those
    does, SQLite refuses its write ("database is locked"), and Prefect's client waits two seconds
    before it tries again. A transaction that begins as a writer waits for its turn, milliseconds.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction

    def as_writer(
        self: AioSqliteConfiguration, session: Any, with_for_update: bool = False
    ) -> AbstractAsyncContextManager[Any]:
        return begin(self, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = as_writer  # type: ignore[assignment]


if __name__ == "__main__":
    main()
