"""SQLite files that are damaged: found by SQLite's own check, and set aside where what they hold
can be made again.

SQLite keeps no checksum of a page: the check finds pages that are cut off, overwritten or wrongly
linked, not a letter changed in text.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path

CORRUPT, NOT_A_DATABASE = 11, 26
"""SQLite's result codes (https://sqlite.org/rescode.html) of a file that is damaged, and of one
whose very first page is.
"""


def is_damage(error: BaseException | None) -> bool:
    """Does SQLite say that the file itself is damaged (not locked, full, or asked for something
    wrong)?
    """
    return isinstance(error, sqlite3.DatabaseError) and getattr(
        error, "sqlite_errorcode", 0
    ) & 0xFF in (CORRUPT, NOT_A_DATABASE)


def damage(path: Path) -> str | None:
    """What is wrong with a database, in SQLite's words; None when nothing is, or nothing is
    there. It takes a second a gigabyte.
    """
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error) if is_damage(error) else None
    return None if said == "ok" else " ".join(said.split())


def set_aside_if_damaged(path: Path, loss: str) -> None:
    """Make way for a new database where the one that is there is damaged, and say so: `loss` is
    what that costs.
    """
    if (why := damage(path)) is None:
        return
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.replace(aside)
    for log in ("-wal", "-shm"):
        if (beside := Path(f"{path}{log}")).exists():
            beside.replace(f"{aside}{log}")
    logging.getLogger("erpd").warning(
        "%s is damaged (%s); it is set aside as %s: %s", path, why, aside.name, loss
    )
