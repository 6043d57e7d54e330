"""An empty Prefect database with all of Prefect's migrations, made once for each installation.

Prefect would run its migrations in every new home, for about five seconds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tasks.host.atomic_files import write_atomically


def template() -> Path:
    """Path of this installation's empty database; `python -m deployments.warm_up` makes it."""
    return Path(sys.prefix) / "share" / "erpd" / f"prefect-{version('prefect')}.db"


def make_template() -> Path:
    """Migrate an empty database, unless this installation has one. Returns its path.

    **Raises:** CalledProcessError if Prefect's migrations fail; OSError if the installation cannot
        be written to.
    """
    path = template()
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix="erpd-prefect-") as folder:
            own = {**os.environ, "PREFECT_HOME": folder, "PREFECT_LOGGING_LEVEL": "WARNING"}
            own.pop("PREFECT_API_URL", None)
            command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
            subprocess.run(command, env=own, check=True, capture_output=True, timeout=300)
            write_atomically(path, lambda to: shutil.copy(Path(folder) / "prefect.db", to))
    return path


def provide(database: Path) -> None:
    """Copy the empty database to `database`, unless that exists or the installation has none.

    Without the copy, Prefect makes the file itself. Two processes may call this at the same time.
    """
    if database.exists() or not template().exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=database.parent) as folder:
        copy = shutil.copy(template(), folder)
        # fails if another process was first, which may use its file, and where links are unknown
        with contextlib.suppress(OSError):
            os.link(copy, database)
