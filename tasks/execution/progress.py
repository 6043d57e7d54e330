"""Progress of long work: stages append events to a file; the terminal and Prefect read it.

Works across processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SESSION = "session"
"""Label of the two events with which a session of a campaign begins and ends."""


@dataclass
class Progress:
    """Appends the events of one stage: at most two a second, and always the last."""

    path: Path | None
    """The file; None writes nothing."""
    label: str = ""
    _next: float = field(default=0.0, repr=False)

    @property
    def due(self) -> bool:
        """Whether an event would be written now. Ask before computing numbers that are costly."""
        return self.path is not None and time.monotonic() >= self._next

    def __call__(self, done: int, total: int, **info: Any) -> None:
        """Report `done` of `total` units; `info` is shown next to the bar."""
        now = time.monotonic()
        if self.path is None or (now < self._next and done < total):
            return
        self._next = now + 0.5
        self.event(done=done, total=total, info=info)

    def say(self, text: str) -> None:
        """Show a message to the user."""
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


@contextlib.contextmanager
def session(events: Path) -> Iterator[None]:
    """Record in a campaign's events when one of its sessions begins and ends, however it ends.

    A session is the time from one start of the campaign to its end, stop or suspension. One that is
    killed has no event for its end. A disk that is full keeps no session from running.
    """
    progress = Progress(events, SESSION)
    with contextlib.suppress(OSError):
        progress.event(status="begins", pid=os.getpid())
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            progress.event(status="ends")


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Every complete event of a file, one after the other; none if there is no file."""
    if path.exists():
        with path.open("rb") as file:
            yield from _events(file)


def follow(path: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """Complete events after byte `position`, and the position to continue from."""
    if not path.exists():
        return [], position
    with path.open("rb") as file:
        file.seek(position)
        data = file.read()
    complete = data.rfind(b"\n") + 1
    return list(_events(data[:complete].splitlines())), position + complete


def _events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with contextlib.suppress(ValueError):  # cut short by a full disk
            yield json.loads(line)
