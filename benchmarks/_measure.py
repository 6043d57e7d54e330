"""Times two sides alternately, because a machine's speed drifts.

Ratios are those of consecutive measurements; results are medians.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
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


def in_turn(
    ours: Callable[[], float], peer: Callable[[], float], rounds: int
) -> list[tuple[float, float]]:
    """Return `rounds` pairs of rates (ours, peer), after a warm-up of each.

    The side that goes first alternates.
    """
    ours(), peer()
    pairs = []
    for number in range(rounds):
        if number % 2:
            second = peer()
            pairs.append((ours(), second))
        else:
            first = ours()
            pairs.append((first, peer()))
    return pairs


def compared(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Return the median rate of each side, and the median and range of the ratios of pairs."""
    ratios = [ours / peer for ours, peer in pairs]
    return {
        "ours": round(statistics.median(ours for ours, _ in pairs), 2),
        "peer": round(statistics.median(peer for _, peer in pairs), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "pairs": len(pairs),
    }


def matrix_rate(repeats: int = 8) -> float:
    """Return the best float32 matrix rate, GFLOP/s, over a small model's shapes and a large one."""
    best = 0.0
    for m, k, n in ((1400, 576, 1536), (1400, 1536, 576), (512, 576, 49152), (2048, 2048, 2048)):
        a, b = torch.randn(m, k), torch.randn(k, n)
        for _ in range(repeats):
            best = max(best, 2 * m * k * n / seconds(partial(torch.matmul, a, b)) / 1e9)
    return best


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
