"""Two sides timed in turn, since a machine's speed drifts: what is compared are neighbours, and
what is quoted are medians.
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
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rate(amount: float, work: Callable[[], object]) -> float:
    """`amount` per second that `work` takes for it."""
    return amount / seconds(work)


def in_turn(
    ours: Callable[[], float], peer: Callable[[], float], rounds: int
) -> list[tuple[float, float]]:
    """Rates of (ours, peer), `rounds` pairs after a warm-up of each; who goes first changes from
    pair to pair.
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
    """Rates of both sides (medians), and the median, smallest and largest ratio of neighbours."""
    ratios = [ours / peer for ours, peer in pairs]
    return {
        "ours": round(statistics.median(one for one, _ in pairs), 2),
        "peer": round(statistics.median(one for _, one in pairs), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "pairs": len(pairs),
    }


def matrix_rate(repeats: int = 8) -> float:
    """The best float32 matrix rate seen now, GFLOP/s, over shapes that a small model has and a
    large square one.
    """
    best = 0.0
    for m, k, n in ((1400, 576, 1536), (1400, 1536, 576), (512, 576, 49152), (2048, 2048, 2048)):
        a, b = torch.randn(m, k), torch.randn(k, n)
        for _ in range(repeats):
            best = max(best, 2 * m * k * n / seconds(partial(torch.matmul, a, b)) / 1e9)
    return best


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "cpu": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "dtype": "float32",
    }
