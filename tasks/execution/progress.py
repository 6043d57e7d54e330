"""Progress of long work: stages append small events to a file, whoever shows them (terminal,
Prefect) reads it. Works across processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Progress:
    """Append events of one stage. At most two a second, and always the last."""

    path: Path | None
    label: str = ""
    _next: float = field(default=0.0, repr=False)

    @property
    def due(self) -> bool:
        """Would an event be written now? For what costs something to find out."""
        return self.path is not None and time.monotonic() >= self._next

    def __call__(self, done: int, total: int, **info: Any) -> None:
        """`done` of `total` units; `info` is shown beside the bar."""
        now = time.monotonic()
        if self.path is None or (now < self._next and done < total):
            return
        self._next = now + 0.5
        self.event(done=done, total=total, info=info)

    def say(self, text: str) -> None:
        """Tell what a person should know."""
        Progress(self.path, f"{self.label}: {text}").event(status="said")

    def event(self, **fields: Any) -> None:
        if self.path is None:
            return
        line = json.dumps({"label": self.label, "time": time.time(), **fields}) + "\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)


def follow(path: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """Whole events after byte `position`, and the position to go on from."""
    if not path.exists():
        return [], position
    with path.open("rb") as file:
        file.seek(position)
        data = file.read()
    whole = data.rfind(b"\n") + 1
    return list(_events(data[:whole])), position + whole


def _events(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        with contextlib.suppress(ValueError):  # cut short by a full disk
            yield json.loads(line)
