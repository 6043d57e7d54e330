"""Find and stop a process that was started earlier, perhaps by another command.

A process is identified by its pid and its creation time.
"""

from __future__ import annotations

import signal

import psutil
from pydantic import BaseModel


class Process(BaseModel):
    """A process that this program started."""

    pid: int
    created: float
    """Creation time, seconds since the epoch. Distinguishes it from a later process with the
    same pid.
    """

    def alive(self) -> bool:
        """Whether the process is running and is not a zombie."""
        try:
            process = psutil.Process(self.pid)
            return (
                abs(process.create_time() - self.created) < 2
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False

    def stop(self) -> None:
        """Stop the process and its children: SIGTERM, then SIGKILL after 10 seconds."""
        if not self.alive():
            return
        tree = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        for process in tree:
            _signal(process, signal.SIGTERM)
        _, left = psutil.wait_procs(tree, timeout=10)
        for process in left:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(left, timeout=5)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
