"""SHA-256 digests of files, computed once for each state of a file."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import NamedTuple

SETTLED_NS = 2_000_000_000
"""A digest is kept only if the file was last changed this long before it was read: a later change
then has another time, however coarse the clock of the file system is.
"""


class _State(NamedTuple):
    """State of a file. Every change changes a field; programs cannot set `ctime`."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


_kept: dict[str, tuple[_State, str]] = {}
"""Real path -> the state of the file that was read, and its digest."""


def file_digest(path: Path) -> str:
    """The SHA-256 digest of a file, as 64 hex digits.

    The bytes are read once for as long as size, times and inode stay the same. A changed file is
    always read again, and so is one that changed within the last two seconds.

    **Raises:** OSError if the file cannot be read.
    """
    key = os.path.realpath(path)
    before = _state(key)
    if key in _kept and _kept[key][0] == before:
        return _kept[key][1]
    began = time.time_ns()
    with open(key, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    changed = max(before.mtime_ns, before.ctime_ns)
    if _state(key) == before and changed + SETTLED_NS < began:
        _kept[key] = (before, digest)
    return digest


def _state(path: str) -> _State:
    stat = os.stat(path)
    return _State(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
