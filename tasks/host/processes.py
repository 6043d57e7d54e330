"""A process that was started earlier, perhaps by another command: found again, and stopped, by
its pid and the time it began.
"""

from __future__ import annotations

import signal

import psutil
from pydantic import BaseModel


class Process(BaseModel):
    """A process of ours. `created` tells it from another process that got the same pid later."""

    pid: int
    created: float

    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return (
                abs(process.create_time() - self.created) < 2
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False

    def stop(self) -> None:
        """Stop it and its children: politely, then not."""
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
