"""Describe a disk fault in one line: which folder, what is wrong, how to fix it.

Each library reports a full disk in its own way: an OSError with an errno, an SQLite message, an
errno in brackets from safetensors. This module gives all of them the same form.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tasks.host.home import FOLDERS, home

FAULTS = {
    errno.ENOSPC: ("is full", "make room there"),
    errno.EDQUOT: ("is as full as your quota allows", "make room there"),
    errno.EROFS: ("is read-only", "make it writable, or set ERPD_HOME to another folder"),
    errno.EACCES: (
        "cannot be read or written by this user",
        "change its permissions, or set ERPD_HOME to another folder",
    ),
    errno.EIO: (
        "is on a failing disk (input/output error)",
        "check the disk, or move ERPD_HOME to another one",
    ),
    errno.EMFILE: (
        "cannot be read: this process has too many files open",
        "raise the limit, `ulimit -n`",
    ),
    errno.ENFILE: (
        "cannot be read: this machine has too many files open",
        "close some, or raise fs.file-max",
    ),
}
"""Error number -> (what is wrong with the folder, the remedy)."""
SENTENCES = {
    "No space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
    "Read-only file system": errno.EROFS,
    "disk I/O error": errno.EIO,
}
"""Messages of libraries and remote processes that do not pass on an error number."""
NUMBERED = re.compile(r"\(os error (\d+)\)")
ELSEWHERE = "API request to"
"""Part of an error that MLflow's client passes on from a server, which has a disk of its own."""
NO_ROOM = 1 << 16
"""Bytes. A folder with less free space counts as full, whatever the error was."""


def describe_disk_fault(error: BaseException) -> str | None:
    """Describe a disk fault in one line: the folder, what is wrong, the remedy.

    None if the error is not a disk fault. If the disk was full but every folder under ERPD_HOME
    has free space, the line says that the file was elsewhere.

    **Example:** `/data/erpd is full; make room there`
    """
    fault = next(((cause, number) for cause in _chain(error) if (number := _number(cause))), None)
    fullest = min(_folders(), key=_free)
    if fault is None and _free(fullest) >= NO_ROOM:
        return None
    cause, number = fault or (error, errno.ENOSPC)
    # SQLite also reports EIO if its log cannot grow
    if number == errno.EIO and _free(fullest) < NO_ROOM:
        number = errno.ENOSPC
    what, remedy = FAULTS[number]
    # the file was elsewhere, or so large that its removal has freed the disk again
    if number == errno.ENOSPC and _free(fullest) >= NO_ROOM:
        return (
            f"the disk that was written to (that of standard output, for example) {what}, while "
            f"{fullest} has {_free(fullest) / 1e9:.1f} GB left; {remedy}"
        )
    if number in (errno.ENOSPC, errno.EDQUOT):
        place = fullest
    else:
        place = (
            Path(os.fsdecode(name))
            if isinstance(cause, OSError) and isinstance(name := cause.filename, str | bytes)
            else home()
        )
    return f"{place} {what}; {remedy}"


def _number(error: BaseException) -> int | None:
    """The key of `FAULTS` that an error reports; None if it reports none."""
    if isinstance(error, OSError) and error.errno in FAULTS:
        return error.errno
    text = str(error)
    if ELSEWHERE in text:
        return None
    if (numbered := NUMBERED.search(text)) and int(numbered[1]) in FAULTS:
        return int(numbered[1])
    return next((number for sentence, number in SENTENCES.items() if sentence in text), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and, recursively, its `__cause__` and `__context__`."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        current = left.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            yield current
            left += [current.__context__, current.__cause__]


def _folders() -> list[Path]:
    """ERPD_HOME and its subfolders, each of which may be a file system of its own.

    The home is first, so that it is the one named if they all share a file system.
    """
    root = home()
    return [folder for folder in (root, *(root / name for name in FOLDERS)) if folder.exists()] or [
        Path("/")
    ]


def _free(folder: Path) -> int:
    """Free bytes for this user; 0 if the file system has no free inode."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize if status.f_favail or not status.f_files else 0
