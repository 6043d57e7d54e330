"""Faults of the machine in plain words: which folder, what is wrong with it, and how to mend it.

A full disk is met by many libraries, and each says so in its own way: an OSError with its number, a
sentence of SQLite's, a number in brackets of safetensors'. Here they become one line.
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
    errno.EROFS: ("may only be read", "make it writable, or name another ERPD_HOME"),
    errno.EACCES: (
        "may not be read or written by this user",
        "give the user the right to, or name another ERPD_HOME",
    ),
    errno.EIO: (
        "is on a disk that fails (input/output error)",
        "see to the disk, or move ERPD_HOME to another",
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
"""Error number -> what it says of a folder, how to mend it."""
SENTENCES = {
    "No space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
    "Read-only file system": errno.EROFS,
    "disk I/O error": errno.EIO,
}
"""What is said by libraries (and processes elsewhere) that hand on no number."""
NUMBERED = re.compile(r"\(os error (\d+)\)")
ELSEWHERE = "API request to"
"""In what MLflow's client says for a server, whose disk is not ours."""
NO_ROOM = 1 << 16
"""Bytes: with fewer of them free nothing can go on, whatever it was that failed."""


def describe_disk_fault(error: BaseException) -> str | None:
    """One line about the folder that a fault of the machine has hit: what, where, how to mend it;
    None when the error is none such.

    Of a file without room, where every folder of ours has some, it says that the file was
    elsewhere.

    Example: `/data/erpd is full; make room there`
    """
    found = next(((one, number) for one in _chain(error) if (number := _number(one))), None)
    fullest = min(_folders(), key=_free)
    if found is None and _free(fullest) >= NO_ROOM:
        return None
    one, number = found or (error, errno.ENOSPC)
    # SQLite's word for a log that cannot grow, too
    if number == errno.EIO and _free(fullest) < NO_ROOM:
        number = errno.ENOSPC
    what, mend = FAULTS[number]
    # a file elsewhere, or one so large that there is room again without it
    if number == errno.ENOSPC and _free(fullest) >= NO_ROOM:
        return (
            f"what it was to write to (standard output, say) {what}, while {fullest} has "
            f"{_free(fullest) / 1e9:.1f} GB left; {mend}"
        )
    if number in (errno.ENOSPC, errno.EDQUOT):
        place = fullest
    else:
        place = (
            Path(os.fsdecode(name))
            if isinstance(one, OSError) and isinstance(name := one.filename, str | bytes)
            else home()
        )
    return f"{place} {what}; {mend}"


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno in FAULTS:
        return error.errno
    text = str(error)
    if ELSEWHERE in text:
        return None
    if (numbered := NUMBERED.search(text)) and int(numbered[1]) in FAULTS:
        return int(numbered[1])
    return next((number for sentence, number in SENTENCES.items() if sentence in text), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it came of, and what it came while handling."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [one.__context__, one.__cause__]


def _folders() -> list[Path]:
    """The home, and what of it may be a file system of its own; the home first, so that it is
    named where they are one.
    """
    root = home()
    return [folder for folder in (root, *(root / name for name in FOLDERS)) if folder.exists()] or [
        Path("/")
    ]


def _free(folder: Path) -> int:
    """Bytes; none where no file can be added any more."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize if found.f_favail or not found.f_files else 0
