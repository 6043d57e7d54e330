"""Names that come from data, other machines or other people, as paths that stay inside a folder
of ours.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

LONGEST = 255
"""Bytes of one part of a path: what file systems take."""
LONGEST_WHOLE = 1024
"""Bytes of all parts together, which leaves room for the folder."""
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that no name needs: control characters, marks that turn text around, halves
of characters, line ends.
"""


def checked_name(name: str, what: str) -> str:
    """`name`, if it is a relative path that means the same place everywhere: parts between `/`,
    none of them empty, `.` or `..`.

    Raises ValueError, in one line that begins with `what`.
    """
    # look-alikes of dots and slashes too
    if why := _objection(name) or _objection(unicodedata.normalize("NFKC", name)):
        raise ValueError(
            f"{what}: the name {name[:80]!a} {why}; rename it: a plain relative path inside its "
            f"folder"
        )
    return name


def path_inside(folder: Path, name: str, what: str) -> Path:
    """`folder / name`, which lies in `folder` also when symlinks are followed. Raises
    ValueError, in one line that begins with `what`.
    """
    path = folder / checked_name(name, what)
    require_inside(folder, path, what)
    return path


def require_inside(folder: Path, path: Path, what: str) -> None:
    """Raises ValueError for a path that, once symlinks are followed, is not in `folder`."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{what}: {path.name} is a link out of {folder}; put the file itself there"
        )


def _objection(name: str) -> str | None:
    parts = name.split("/")
    if name.startswith("~") or "\\" in name or any(part.strip(". ") == "" for part in parts):
        return "leads out of its folder, or nowhere"
    if any(unicodedata.category(letter) in UNSEEN for letter in name):
        return "holds characters that cannot be seen"
    if any(len(part.encode("utf-8", "replace")) > LONGEST for part in parts):
        return f"has a part longer than {LONGEST} bytes"
    if len(name.encode("utf-8", "replace")) > LONGEST_WHOLE:
        return f"is longer than {LONGEST_WHOLE} bytes"
    return None
