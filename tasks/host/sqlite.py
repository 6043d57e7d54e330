"""Find damaged SQLite files with SQLite's own check, and move aside those that can be rebuilt.

SQLite keeps no page checksums. The check finds pages that are cut off, overwritten or wrongly
linked. It does not find a changed letter in a text value.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path

CORRUPT, NOT_A_DATABASE = 11, 26
"""SQLite's result codes (https://sqlite.org/rescode.html) for a damaged file, and for a file with
a damaged first page.
"""


def is_damage(error: BaseException | None) -> bool:
    """Whether an error means damage to the database file itself.

    A locked database, a full disk or a wrong statement is not damage.
    """
    return isinstance(error, sqlite3.DatabaseError) and getattr(
        error, "sqlite_errorcode", 0
    ) & 0xFF in (CORRUPT, NOT_A_DATABASE)


def damage(path: Path) -> str | None:
    """Describe the damage of a database file, in SQLite's words.

    None if the file is undamaged or absent. Takes one second per gigabyte.
    """
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error) if is_damage(error) else None
    return None if result == "ok" else " ".join(result.split())


def set_aside_if_damaged(path: Path, loss: str) -> None:
    """Move a damaged database and its logs aside, so that a new one can be created.

    Logs a warning. `loss` is the part of the warning that says what the move costs the user.
    """
    if (why := damage(path)) is None:
        return
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.replace(aside)
    for log in ("-wal", "-shm"):
        if (log_file := Path(f"{path}{log}")).exists():
            log_file.replace(f"{aside}{log}")
    logging.getLogger("erpd").warning(
        "%s is damaged (%s); it is set aside as %s: %s", path, why, aside.name, loss
    )
