"""Expensive results that the test processes of one run share."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from tasks.host.atomic_files import write_atomically

T = TypeVar("T")
FOLDER = "ERPD_TESTS_SHARED"
"""Environment variable with the folder that the processes of a run share."""


def open_folder() -> Path | None:
    """Make the folder of a run, in its first process. Returns None in the others.

    Its path is short enough for Ray's sockets.
    """
    if FOLDER in os.environ:
        return None
    os.environ[FOLDER] = tempfile.mkdtemp(prefix="e-", dir="/tmp")
    return Path(os.environ[FOLDER])


def once(name: str, make: Callable[[Path], T]) -> T:
    """What `make` returns for an empty folder, called in the first test process that asks.

    The others wait for it. The result is pickled, the folder stays until the run ends.
    """
    folder = Path(os.environ[FOLDER]) / name
    kept = folder.with_suffix(".pickle")
    with FileLock(folder.with_suffix(".lock")):
        if not kept.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process whose call failed
            folder.mkdir()
            made = pickle.dumps(make(folder))
            write_atomically(kept, lambda path: path.write_bytes(made))
    result: T = pickle.loads(kept.read_bytes())
    return result
