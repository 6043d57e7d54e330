"""Atomic, durable writes of files."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write` fills a temporary file beside `path`, which is then made durable and renamed over
    it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # process ids of two machines may be equal
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        write(temporary)
        fd = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
        make_durable(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_durable(folder: Path) -> None:
    """What was renamed into the folder is there after a loss of power too."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
