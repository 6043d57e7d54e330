"""CPU cores, threads and freed memory of this process."""

from __future__ import annotations

import ctypes
import os
from typing import Literal

from erpd_core.config import RuntimeConfig

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def cores() -> int:
    """Number of CPU cores this process may run on.

    A job scheduler or a container may allow fewer cores than the machine has.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Make malloc keep the memory of freed tensors for the next ones.

    Requesting the pages again for every micro-batch costs more than a tenth of an optimizer step.
    Applies to the whole process and needs glibc; does nothing with other C libraries.
    `give_back_memory` releases what is kept so far, but the setting remains.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, 2**31 - 1)
        mallopt(M_TRIM_THRESHOLD, -1)


def give_back_memory() -> None:
    """Return kept, unused memory to the operating system.

    For a process that waits for its next work. Needs glibc; does nothing elsewhere.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def use_threads(count: int | None) -> None:
    """Set the number of torch CPU threads (None or 0: every core) and keep freed memory."""
    import torch  # here, so that importing this module does not import torch

    torch.set_num_threads(count or cores())
    keep_freed_memory()


def device_name(runtime: RuntimeConfig) -> Literal["cpu", "cuda"]:
    """The device that models run on here; `auto` is a GPU if torch sees one."""
    if runtime.device != "auto":
        return runtime.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
