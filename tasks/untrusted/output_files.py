"""Files that people ask for: one that cannot be written is said before the work starts, and each
is there whole or not at all.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tasks.untrusted.input_files import short


def check_output(path: Path, what: str = "output") -> Path:
    """`path`, to which a file can be written. Leaves nothing behind.

    **Arguments:** `what` it is, for the message. **Raises:** ValueError: its folder is not there or
    may not be written to, or something stands there that is no file.
    """
    where = f"{what} {short(path, 200)}"
    try:
        if path.is_dir():
            raise ValueError(f"{where}: is a directory; give a file in it")
        if path.exists() and not path.is_file():
            raise ValueError(f"{where}: is a pipe or a device; give a file")
        if not path.parent.exists():
            raise ValueError(
                f"{where}: its folder is not there; make it first: mkdir -p "
                f"{short(path.parent, 200)}"
            )
        if not path.parent.is_dir():
            raise ValueError(f"{where}: {short(path.parent, 200)} is no folder; check the path")
        # permissions do not tell all: try
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise ValueError(
            f"{where}: {error.strerror}; give a file in a folder that may be written to"
        ) from error
    return path
