"""Check that untrusted names stay inside the folder that they are joined to.

Such names come from data, other machines or other users.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

LONGEST = 255
"""Maximum bytes of one part of a path, the limit of file systems."""
LONGEST_WHOLE = 1024
"""Maximum bytes of a whole name; leaves space for the folder's own path."""
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that names must not contain: control characters, bidirectional overrides,
lone surrogates, line ends.
"""


def checked_name(name: str, what: str) -> str:
    """Return `name` if it is a relative path that means the same place everywhere.

    That is, parts separated by `/`, none of them empty, `.` or `..`.

    **Raises:** ValueError otherwise, with a message of one line that begins with `what`.
    """
    # NFKC turns look-alikes of dots and slashes into plain ones
    if why := _objection(name) or _objection(unicodedata.normalize("NFKC", name)):
        raise ValueError(
            f"{what}: the name {name[:80]!a} {why}; rename it: a plain relative path inside its "
            f"folder"
        )
    return name


def path_inside(folder: Path, name: str, what: str) -> Path:
    """Return `folder / name`, which stays inside `folder` even after following symlinks.

    **Raises:** ValueError otherwise, with a message of one line that begins with `what`.
    """
    path = folder / checked_name(name, what)
    require_inside(folder, path, what)
    return path


def require_inside(folder: Path, path: Path, what: str) -> None:
    """Raise ValueError if `path` is not inside `folder` after following symlinks."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{what}: {path.name} is a link out of {folder}; put the file itself there"
        )


def _objection(name: str) -> str | None:
    """Why a name is not acceptable; None if it is."""
    parts = name.split("/")
    if name.startswith("~") or "\\" in name or any(part.strip(". ") == "" for part in parts):
        return "leads outside its folder or is no path"
    if any(unicodedata.category(letter) in UNSEEN for letter in name):
        return "contains invisible characters"
    if any(len(part.encode("utf-8", "replace")) > LONGEST for part in parts):
        return f"has a part longer than {LONGEST} bytes"
    if len(name.encode("utf-8", "replace")) > LONGEST_WHOLE:
        return f"is longer than {LONGEST_WHOLE} bytes"
    return None
