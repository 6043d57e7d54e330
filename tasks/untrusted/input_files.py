"""Files that people give: what cannot be read is said before it is opened, text is UTF-8, and
messages hold little of what was found.
"""

from __future__ import annotations

import codecs
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHOWN = 80
"""Characters of somebody's text that a message repeats."""


def short(text: object, most: int = SHOWN) -> str:
    """`text` in a few words, for a message. Example: `short("x" * 100, 8) == "xxxxx..."`"""
    shown = str(text)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def expanded(text: str, place: str) -> Path:
    """`text` as a path, `~` and `~user` at its beginning replaced.

    **Arguments:** `place`: what `text` was given for. **Raises:** ValueError in one line where
    there is no such user, or no home of one.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        user = short(Path(text).parts[0])
        raise ValueError(
            f"{place} {short(text, 200)}: {user} is no home of a user here; write the whole path"
        ) from error


def readable(path: Path, what: str = "") -> Path:
    """`path`, which is a regular file that may be read. A pipe or a device is refused unopened: to
    read one may never end.

    **Arguments:** `what` the file is, for the message. **Raises:** ValueError saying what stands
    there instead, and how to mend it.
    """
    where = f"{what} {short(path, 200)}".strip()
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ValueError(f"{where}: is not there; check the path") from None
    except OSError as error:  # a loop of links, a name too long, a folder that is a file
        raise ValueError(f"{where}: {error.strerror}; check the path") from error
    except ValueError as error:
        raise ValueError(
            f"{short(repr(str(path)), 200)}: no path holds a null byte; check the path"
        ) from error
    if stat.S_ISDIR(mode):
        raise ValueError(f"{where}: is a directory, not a file; give a file in it")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{where}: is a pipe or a device, not a file; write it into a file first")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{where}: may not be read; change its permissions")
    return path


def text_lines(path: Path, shown: str = "") -> Iterator[tuple[str, str]]:
    """("FILE, line 3", line) of every line that is not blank; a byte order mark is no part of the
    first.

    **Arguments:** `shown`: what the file is called in messages; its path when empty. **Raises:**
    ValueError naming file, line and remedy.
    """
    name = shown or str(path)
    with readable(path).open("rb") as file:
        for number, raw in enumerate(file, 1):
            where = f"{name}, line {number}"
            try:
                line = raw.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{where}: not UTF-8 text ({error.reason}); save the file as UTF-8"
                ) from error
            if line.strip():
                yield where, line


def parse_json(text: str, where: str, mend: str = "write one JSON object per line") -> Any:
    """The value of a JSON text. Raises ValueError in one line: where, what is wrong, and `mend`."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(
            f"{where}: not JSON that can be read (nested too deeply); {mend}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({short(error, 160)}); {mend}") from error
