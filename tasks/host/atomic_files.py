"""Atomic and durable file writes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write `path` atomically and durably: temporary file, fsync, rename.

    `write` receives the path of a temporary file in the same folder and fills it. The folder is
    created if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the random part is needed because two machines may have the same process id
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
    """Flush a folder's entries to disk, so that renames into it survive a power loss."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
