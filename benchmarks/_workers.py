"""Measures independent work by one process and by two.

`python -m benchmarks._workers` is a worker: it scores a batch once per line on stdin. Each worker
has one thread, its own copy of the embedded model, and the same batch. It prints `ready` after a
first pass over the batch.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import IO, Any

SEQUENCES, LENGTH = 2048, 24


def speed_up(rounds: int) -> dict[str, Any]:
    """Compare two batches scored by one worker with one batch by each of two workers at once.

    The two ways alternate, `rounds` times.
    """
    pairs = []
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker()) for _ in range(2)]
        for worker in workers:
            assert _out(worker).readline().strip() == "ready"
        for _ in range(rounds):
            alone = sum(_together(workers[:1]) for _ in range(2))
            pairs.append((alone, _together(workers)))
        for worker in workers:
            _in(worker).close()
    return {
        "one": round(statistics.median(alone for alone, _ in pairs), 3),
        "two": round(statistics.median(both for _, both in pairs), 3),
        "ratio": round(statistics.median(alone / both for alone, both in pairs), 3),
        "ratio_range": [
            round(min(alone / both for alone, both in pairs), 3),
            round(max(alone / both for alone, both in pairs), 3),
        ],
        "tokens": 2 * SEQUENCES * LENGTH,
        "rounds": rounds,
        "work": f"scoring {SEQUENCES} responses of {LENGTH} tokens under the embedded model, one "
        f"thread per worker",
    }


def _worker() -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks._workers"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def _together(workers: list[subprocess.Popen[str]]) -> float:
    started = time.perf_counter()
    for worker in workers:
        print("go", file=_in(worker), flush=True)
    for worker in workers:
        assert _out(worker).readline().strip() == "done"
    return time.perf_counter() - started


def _in(worker: subprocess.Popen[str]) -> IO[str]:
    assert worker.stdin is not None
    return worker.stdin


def _out(worker: subprocess.Popen[str]) -> IO[str]:
    assert worker.stdout is not None
    return worker.stdout


def main() -> None:
    import torch

    from erpd_core.batch import TokenBatch
    from erpd_core.config import RuntimeConfig
    from erpd_core.optimize import score
    from tasks.models.import_policy import ASSETS
    from tasks.models.policy import load_policy

    torch.set_num_threads(1)
    policy = load_policy(ASSETS / "tiny-base", RuntimeConfig(ray="off"))
    draw = random.Random(0)
    size = policy.model.config.vocab_size
    batch = TokenBatch.build(
        prompts=[[draw.randrange(size) for _ in range(10)] for _ in range(SEQUENCES // 16)],
        responses=[[draw.randrange(size) for _ in range(LENGTH)] for _ in range(SEQUENCES)],
        groups=[number // 16 for number in range(SEQUENCES)],
        rewards=[0.0] * SEQUENCES,
    )
    score(policy, batch, 16_384)
    print("ready", flush=True)
    for _ in sys.stdin:
        score(policy, batch, 16_384)
        print("done", flush=True)


if __name__ == "__main__":
    main()
