"""The path of signals as training takes it, measured in a process of its own: `python -m
benchmarks._signal_path JOB.json`.

Reads a stored rollout as a batch, builds signals (masked, whitened) from its columns, and reads an
epoch of minibatches: tokens, old log-probs and signal of each micro-batch. No model: what is
measured is what lies around it. Prints one JSON object: seconds of each part, bytes read, the
disk's own rate on the same files, and the most memory this process ever had.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks._synthetic import files, forget
from erpd_core.batch import TokenBatch, minibatches
from erpd_core.columns import Column
from erpd_core.config import SignalSpec
from erpd_core.signals import FixedSignal, build_signal
from tasks.rollouts import load_batch
from tasks.rollouts.columns import stored_column
from tasks.store import Store

MICRO = 3
"""Responses of a micro-batch."""
BLOCK = 8 << 20

Timed = tuple[float, Any]


def timed(work: Callable[[], Any]) -> Timed:
    started = time.perf_counter()
    found = work()
    return time.perf_counter() - started, found


def measure(root: Path, rollouts: str, columns: list[str]) -> dict[str, Any]:
    """Everything, on the columns given: pairs of a numerator and a denominator, masked in turn
    by none and by `min`.
    """
    store = Store(root)
    rows, stored = files(store, rollouts), [files(store, column) for column in columns]
    flat = [path for one in stored for path in one]
    size = sum(path.stat().st_size for path in flat)
    forget(flat)
    raw, _ = timed(lambda: _read(flat))
    forget(rows + flat)
    load, batch = timed(lambda: load_batch(iter(rows)))
    build, signals = timed(lambda: _signals(batch, stored))
    forget(flat)
    read, tokens = timed(lambda: _epoch(batch, stored_column(stored[0], "lp"), signals))
    return {
        "sequences": batch.sequences,
        "tokens": batch.tokens,
        "columns": len(columns),
        "bytes": size,
        "seconds": {"raw": raw, "load": load, "build": build, "read": read},
        "tokens_read": tokens,
        "disk_rate": size / raw,
        "build_rate": size / build,
        "peak": peak(),
    }


def _read(paths: list[Path]) -> None:
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(BLOCK):
                pass


def _signals(batch: TokenBatch, stored: list[list[Path]]) -> list[Column]:
    positive_N = batch.per_token(batch.reward_S > 0.5)
    opened = [stored_column(paths, "lp") for paths in stored]
    specs = (SignalSpec(), SignalSpec(positives="min"))
    pairs = list(zip(opened[1::2], opened[::2], strict=True))
    return [build_signal(specs[number % 2], *pair, positive_N) for number, pair in enumerate(pairs)]


def _epoch(batch: TokenBatch, old_N: Column, signals: list[Column]) -> int:
    """Read what an epoch of training reads, micro-batch by micro-batch; the tokens of it."""
    fixed = [FixedSignal(signal) for signal in signals]
    read = 0
    for some in next(minibatches(batch.sequences, batch.sequences, seed=0)).split(MICRO):
        index = batch.token_index(some)
        old_n = old_N[index]
        values = [old_n, *(signal.at(index, old_n) for signal in fixed)]
        tokens = sum(len(batch.response(int(sequence))) for sequence in some)
        assert all(len(value) == tokens for value in values)
        read += tokens
    return read


def peak() -> int:
    """The most bytes this process ever had in memory, mapped files included; of this program
    alone, unlike `ru_maxrss`.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    # steadier on a shared machine; what is measured is bound by memory and the disk
    torch.set_num_threads(1)
    job = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps(measure(Path(job["root"]), job["rollouts"], job["columns"])))
