"""What of the machine this process may use."""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def cores() -> int:
    """CPU cores: those it may run on, which a job scheduler or a container may have made fewer
    than the machine has.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Keep what tensors give back for the next ones: taking pages anew for every micro-batch costs
    more than a tenth of an optimizer step.

    For the whole process, where the C library is glibc; elsewhere nothing. `give_back_memory` ends
    what is kept, not the keeping.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, 2**31 - 1)
        mallopt(M_TRIM_THRESHOLD, -1)


def give_back_memory() -> None:
    """Return to the machine what is kept and unused: a process that waits for other work should
    hold nothing.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def use_threads(count: int | None) -> None:
    """Compute on `count` CPU threads, or on every core; keep freed memory for the next tensors."""
    import torch  # here, so that a look at the machine does not import torch

    torch.set_num_threads(count or cores())
    keep_freed_memory()
