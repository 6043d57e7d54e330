"""Read files given by users.

Unreadable files are reported before they are opened. Text is UTF-8. Messages repeat only a short
part of a file's content.
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
"""Maximum characters of untrusted text that a message repeats."""


def short(text: object, most: int = SHOWN) -> str:
    """Cut `text` to at most `most` characters, for a message.

    **Example:** `short("x" * 100, 8) == "xxxxx..."`
    """
    shown = str(text)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def expanded(text: str, place: str) -> Path:
    """Convert `text` to a path and expand `~` or `~user` at its beginning.

    **Arguments:**
        place: What `text` was given for; begins the message.
    **Raises:** ValueError, in one line, if the user does not exist or has no home.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        user = short(Path(text).parts[0])
        raise ValueError(
            f"{place} {short(text, 200)}: {user} is not the home of a user on this "
            f"machine; write the full path"
        ) from error


def readable(path: Path, what: str = "") -> Path:
    """Return `path` if it is a regular, readable file.

    A pipe or a device is refused without opening it, because reading it may never end.

    **Arguments:**
        what: What the file is, for the message.
    **Raises:** ValueError that says what is wrong and how to fix it.
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
            f"{short(repr(str(path)), 200)}: a path cannot contain a null byte; check the path"
        ) from error
    if stat.S_ISDIR(mode):
        raise ValueError(f"{where}: is a directory, not a file; give a file in it")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{where}: is a pipe or a device, not a file; write it into a file first")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{where}: cannot be read; change its permissions")
    return path


def text_lines(path: Path, shown: str = "") -> Iterator[tuple[str, str]]:
    """Yield ("FILE, line 3", line) for every line that is not blank, without a byte order mark.

    **Arguments:**
        shown: Name of the file in messages; its path if empty.
    **Raises:** ValueError that names file, line and remedy.
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


def parse_json(text: str, where: str, remedy: str = "write one JSON object per line") -> Any:
    """Parse a JSON text.

    **Raises:** ValueError in one line that gives `where`, what is wrong, and the remedy `remedy`.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(
            f"{where}: not JSON that can be read (nested too deeply); {remedy}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({short(error, 160)}); {remedy}") from error
