"""Batches with realistic lengths of prompts and responses, and random tokens."""

from __future__ import annotations

import random

from erpd_core.batch import TokenBatch


def gsm8k_like(vocabulary: int) -> TokenBatch:
    """Return 4 prompts of about 83 tokens x 8 responses of 20 to 300 tokens, skewed as on GSM8K."""
    return _batch(
        vocabulary,
        prompts=(62, 71, 85, 115),
        samples=8,
        shortest=20,
        longest=300,
        mean=132,
        spread=0.6,
    )


def short(vocabulary: int) -> TokenBatch:
    """Return 8 prompts of 50 tokens x 16 short answers of 8 to 60 tokens, as for arithmetic."""
    return _batch(
        vocabulary, prompts=(50,) * 8, samples=16, shortest=8, longest=60, mean=23, spread=0.45
    )


def _batch(
    vocabulary: int,
    prompts: tuple[int, ...],
    samples: int,
    shortest: int,
    longest: int,
    mean: float,
    spread: float,
) -> TokenBatch:
    """Return a batch with log-normal lengths, clamped to a range; half the responses are right."""
    rng = random.Random(20_260_525)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(count)]

    lengths = [
        min(longest, max(shortest, round(mean * rng.lognormvariate(-(spread**2) / 2, spread))))
        for _ in range(len(prompts) * samples)
    ]
    lengths[0] = longest
    return TokenBatch.build(
        prompts=[tokens(length) for length in prompts],
        responses=[tokens(length) for length in lengths],
        groups=[index // samples for index in range(len(lengths))],
        rewards=[float(index % 2) for index in range(len(lengths))],
    )


BATCHES = {"gsm8k-like": gsm8k_like, "short": short}
