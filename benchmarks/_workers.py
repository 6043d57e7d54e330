"""Measures independent work by one process and by two.

`python -m benchmarks._workers` is a worker; each request lets it score a batch once. Each worker
has one thread, its own copy of the embedded model, and the same batch.
"""

from __future__ import annotations

import random

from benchmarks._budget import Deadline
from benchmarks._measure import rate
from benchmarks._pairs import Pair, Result, repeated
from benchmarks._sides import serve, side

SEQUENCES, LENGTH = 2048, 24
WORK = (
    f"scoring {SEQUENCES} responses of {LENGTH} tokens under the embedded model, one thread per "
    f"worker"
)


def two_and_one(share: Deadline, rounds: int) -> list[Pair]:
    """Compare one batch by each of two workers at once (ours) with both by one of them (peer)."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with (
        side("benchmarks._workers", deadline=share.whole, **threads) as first,
        side("benchmarks._workers", deadline=share.whole, **threads) as second,
    ):
        first.answer(), second.answer()

        def at_once() -> None:
            for worker in (first, second):
                worker.ask("score")
            for worker in (first, second):
                worker.answer()

        def pair(*_: int) -> tuple[Result, Result]:
            tokens = 2 * SEQUENCES * LENGTH
            one = rate(tokens, lambda: [first("score"), first("score")])
            return {"rate": rate(tokens, at_once)}, {"rate": one}

        return repeated("workers", pair, share, rounds)


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

    def work(_: object) -> Result:
        score(policy, batch, 16_384)
        return {}

    serve(work)


if __name__ == "__main__":
    main()
