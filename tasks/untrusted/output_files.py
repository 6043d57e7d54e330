"""Check that a requested output file can be written, before any work starts."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tasks.untrusted.input_files import short


def check_output(path: Path, what: str = "output") -> Path:
    """Return `path` if a file can be written there. Leaves nothing behind.

    **Arguments:**
        what: What the file is, for the message.
    **Raises:** ValueError if the folder does not exist or is not writable, or if `path` is
        something other than a file.
    """
    where = f"{what} {short(path, 200)}"
    try:
        if path.is_dir():
            raise ValueError(f"{where}: is a directory; give a file in it")
        if path.exists() and not path.is_file():
            raise ValueError(f"{where}: is a pipe or a device; give a file")
        if not path.parent.exists():
            raise ValueError(
                f"{where}: its folder does not exist; create it first: mkdir -p "
                f"{short(path.parent, 200)}"
            )
        if not path.parent.is_dir():
            raise ValueError(f"{where}: {short(path.parent, 200)} is not a folder; check the path")
        # permissions alone do not show whether writing works: try it
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise ValueError(f"{where}: {error.strerror}; give a file in a writable folder") from error
    return path
