"""Measures the data path of training without a model: `python -m benchmarks._signal_path JOB.json`.

It reads a stored rollout as a batch, builds signals (masked, whitened) from its columns, and reads
an epoch of minibatches: tokens, old log-probs and signal of each micro-batch. It runs in a separate
process and prints one JSON object: seconds of each part, bytes read, the disk's own rate on the
same files, and the process's peak memory.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks._measure import peak
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
    """Return (seconds, result) of `work`."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def measure(root: Path, rollouts: str, columns: list[str]) -> dict[str, Any]:
    """Measure every part on the given columns.

    **Arguments:**
        columns: Ids of columns, in pairs (numerator, denominator). Pairs are masked alternately by
            nothing and by `min`.
    """
    store = Store(root)
    rows, stored = files(store, rollouts), [files(store, column) for column in columns]
    flat = [path for paths in stored for path in paths]
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
    """Read what an epoch of training reads, by micro-batches. Returns the number of tokens."""
    fixed = [FixedSignal(signal) for signal in signals]
    read = 0
    for micro in next(minibatches(batch.sequences, batch.sequences, seed=0)).split(MICRO):
        index = batch.token_index(micro)
        old_n = old_N[index]
        values = [old_n, *(signal.at(index, old_n) for signal in fixed)]
        tokens = sum(len(batch.response(int(sequence))) for sequence in micro)
        assert all(len(value) == tokens for value in values)
        read += tokens
    return read


if __name__ == "__main__":
    # one thread is steadier on a shared machine, and the work is bound by memory and disk
    torch.set_num_threads(1)
    job = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps(measure(Path(job["root"]), job["rollouts"], job["columns"])))
