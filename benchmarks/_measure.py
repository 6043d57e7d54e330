"""Measures seconds, rates and memory, and describes the machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rate(amount: float, work: Callable[[], object]) -> float:
    """Return `amount` divided by the seconds that `work` takes."""
    return amount / seconds(work)


def matrix_rate(repeats: int = 8) -> float:
    """Return the best float32 matrix rate, GFLOP/s, over a small model's shapes and a large one."""
    best = 0.0
    for m, k, n in ((1400, 576, 1536), (1400, 1536, 576), (512, 576, 49152), (2048, 2048, 2048)):
        a, b = torch.randn(m, k), torch.randn(k, n)
        for _ in range(repeats):
            best = max(best, 2 * m * k * n / seconds(partial(torch.matmul, a, b)) / 1e9)
    return best


def peak() -> int:
    """Return this process's peak memory in bytes, mapped files included.

    Unlike `ru_maxrss`, it does not include what the process had before it ran this program.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def machine() -> dict[str, Any]:
    """Describe the machine and its settings."""
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "cpu": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "dtype": "float32",
    }
