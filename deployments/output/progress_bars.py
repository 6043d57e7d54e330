"""Progress on the terminal: a bar for each running stage, a line for each finished one.

It is read from the campaigns' event files.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tasks.execution.progress import SESSION, follow
from tasks.untrusted.display_text import visible


class Display:
    """Context manager that follows event files and shows new events on a console.

    **Arguments:**
        events: Path of an event file -> heading printed above its lines; empty for none.
    """

    def __init__(self, events: Mapping[Path, str], console: Console) -> None:
        self.headings, self.console = dict(events), console
        self.position = {path: path.stat().st_size if path.exists() else 0 for path in events}
        self.progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[info]}", style="dim", markup=False),
            console=console,
            transient=True,
            speed_estimate_period=600,  # seconds; long responses finish minutes apart
        )
        self.bars: dict[tuple[Path, str], TaskID] = {}
        self.since: dict[tuple[Path, str], float] = {}
        self.headed: Path | None = None
        """Event file of the line printed last."""
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Display:
        self.progress.start()
        self.thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.ended.set()
        self.thread.join()
        self.progress.stop()

    def say(self, text: str, style: str = "") -> None:
        self.progress.print(visible(text), style=style, highlight=False, markup=False)

    def _follow(self) -> None:
        while not self.ended.wait(0.25):
            self._read()
        self._read()

    def _read(self) -> None:
        for path, position in self.position.items():
            events, self.position[path] = follow(path, position)
            for event in events:
                self._show(path, event)

    def _print_line(self, path: Path, text: str, style: str = "") -> None:
        """Print a line below the heading of its event file."""
        if self.headed != path and (heading := self.headings[path]):
            self.say(heading, style="bold")
        self.headed = path
        self.say(text, style)

    def _show(self, path: Path, event: dict[str, Any]) -> None:
        label, status = event["label"], event.get("status")
        if label == SESSION:
            return
        key = path, label
        if status == "started":
            self.since[key] = event["time"]
            self._bar(key)
        elif status == "finished":
            self._end(key)
            self._print_line(
                path,
                f"  done    {label}  ({event['time'] - self.since.get(key, event['time']):.1f} s)",
            )
        elif status == "cached":
            self._print_line(path, f"  cached  {label}", style="dim")
        elif status == "said":
            self._print_line(path, f"  {label}", style="cyan")
        else:
            info = visible("  ".join(f"{key} {value}" for key, value in event["info"].items()))
            self.progress.update(
                self._bar(key), completed=event["done"], total=event["total"], info=info
            )

    def _bar(self, key: tuple[Path, str]) -> TaskID:
        if key not in self.bars:
            self.bars[key] = self.progress.add_task(visible(key[1]), total=None, info="")
        return self.bars[key]

    def _end(self, ended: tuple[Path, str]) -> None:
        # an evaluation has one bar per benchmark; their labels begin with its own
        for key in [key for key in self.bars if key[0] == ended[0] and key[1].startswith(ended[1])]:
            self.progress.remove_task(self.bars.pop(key))


def elapsed(since: float) -> str:
    seconds = time.monotonic() - since
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
