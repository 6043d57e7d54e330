"""Batches with realistic lengths of prompts and responses, and random tokens."""

from __future__ import annotations

import random
from typing import NamedTuple

from erpd_core.batch import TokenBatch


class Shape(NamedTuple):
    """Lengths of a batch: log-normal ones of responses, clamped to a range.

    **Example:** `BATCHES["short"].batch(49_152, groups=2)` has the first two of its eight prompts
    and their 32 responses.
    """

    prompts: tuple[int, ...]
    """Tokens of each prompt."""
    samples: int
    """Responses to each prompt."""
    shortest: int
    longest: int
    """Tokens of the first response, which is in every part of the batch."""
    mean: float
    spread: float

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of groups, each twice the one before, up to the whole batch."""
        return doubled(1, len(self.prompts))

    def batch(self, vocabulary: int, groups: int) -> TokenBatch:
        """Return the first groups of the batch; half of their responses are right."""
        rng = random.Random(20_260_525)

        def tokens(count: int) -> list[int]:
            return [rng.randrange(vocabulary) for _ in range(count)]

        center = -(self.spread**2) / 2
        lengths = [
            min(
                self.longest,
                max(self.shortest, round(self.mean * rng.lognormvariate(center, self.spread))),
            )
            for _ in range(groups * self.samples)
        ]
        lengths[0] = self.longest
        return TokenBatch.build(
            prompts=[tokens(length) for length in self.prompts[:groups]],
            responses=[tokens(length) for length in lengths],
            groups=[index // self.samples for index in range(len(lengths))],
            rewards=[float(index % 2) for index in range(len(lengths))],
        )


def doubled(smallest: int, largest: int) -> tuple[int, ...]:
    """Return numbers from the smallest to the largest; each is at most twice the one before."""
    sizes = [smallest]
    while sizes[-1] < largest:
        sizes.append(min(2 * sizes[-1], largest))
    return tuple(sizes)


BATCHES = {
    # 4 prompts of about 83 tokens x 8 responses of 20 to 300 tokens, skewed as on GSM8K
    "gsm8k-like": Shape((62, 71, 85, 115), 8, shortest=20, longest=300, mean=132, spread=0.6),
    # 8 prompts of 50 tokens x 16 answers of 8 to 60 tokens, as for arithmetic
    "short": Shape((50,) * 8, 16, shortest=8, longest=60, mean=23, spread=0.45),
}
