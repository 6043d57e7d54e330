"""What of the machine this process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """CPU cores: those it may run on, which a job scheduler or a container may have made fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
