"""Counts of the minimal work of a model pass, in any layout.

Each prompt counts once, and the head only on response positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveInt

from erpd_core.estimates.shape import ModelShape
from erpd_core.refs import Frozen

if TYPE_CHECKING:
    from erpd_core.batch import TokenBatch


class Counts(Frozen):
    """Tokens and pairs that a pass processes.

    **Example:** a prompt of 10 tokens and two responses of 5. A pass reads 4 of the 5, because
    nothing is predicted from the last: `Counts(tokens=18, pairs=10 * 11 / 2 + 2 * (4 * 5 / 2 + 4 *
    10), predicted=10)`.
    """

    tokens: float
    """Input tokens."""
    pairs: float
    """Pairs of a query and a key that it may see."""
    predicted: float
    """Response tokens, for which the head computes logits."""

    @classmethod
    def of(cls, batch: TokenBatch) -> Counts:
        """Exact counts of a pass over an existing batch."""
        own = (batch.length_S - 1).tolist()
        prompts = [len(prompt) for prompt in batch.prompts]
        pairs = sum(length * (length + 1) / 2 for length in prompts)
        for group, length in zip(batch.group_S.tolist(), own, strict=True):
            pairs += length * (length + 1) / 2 + length * prompts[group]
        return cls(tokens=sum(prompts) + sum(own), pairs=pairs, predicted=batch.tokens)

    def times(self, factor: float) -> Counts:
        """All counts multiplied by `factor`."""
        return Counts(
            tokens=self.tokens * factor,
            pairs=self.pairs * factor,
            predicted=self.predicted * factor,
        )


class Batch(Frozen):
    """An expected batch: prompts, samples of each, and their lengths in tokens."""

    prompts: PositiveInt
    """Number of prompts."""
    samples: PositiveInt
    """Samples per prompt."""
    prompt: float
    """Mean tokens of a prompt."""
    response: float
    """Mean tokens of a response."""
    spread: float
    """Standard deviation of response lengths divided by their mean. The quadratic part of attention
    is proportional to 1 + its square.
    """
    longest: float
    """Tokens of the longest response of a shard."""

    @property
    def sequences(self) -> int:
        """Number of responses."""
        return self.prompts * self.samples

    @property
    def tokens(self) -> float:
        """Response tokens: the length of a column."""
        return self.sequences * self.response

    def counts(self) -> Counts:
        """Expected counts of a pass over the whole batch."""
        return self.part(self.sequences)

    def part(self, sequences: int) -> Counts:
        """Expected counts of a pass over `sequences` responses, drawn at random.

        A prompt is read once if any response to it is drawn.
        """
        prompts = self.prompts * (1 - (1 - sequences / self.sequences) ** self.samples)
        own = max(0.0, self.response - 1)
        square = own**2 + (self.spread * self.response) ** 2  # mean square of the length
        pairs = prompts * self.prompt * (self.prompt + 1) / 2 + sequences * (
            (square + own) / 2 + own * self.prompt
        )
        tokens = prompts * self.prompt + sequences * own
        return Counts(tokens=tokens, pairs=pairs, predicted=sequences * self.response)


def body_flops(shape: ModelShape, counts: Counts) -> float:
    """FLOPs (a multiplication and an addition are two) of all layers, without the head."""
    return 2.0 * (
        (shape.block_weights + shape.products_per_state) * counts.tokens
        + shape.products_per_pair * counts.pairs
    )


def head_flops(shape: ModelShape, counts: Counts) -> float:
    """FLOPs of the head on response positions."""
    return 2.0 * shape.head_weights * counts.predicted


def forward_flops(shape: ModelShape, counts: Counts) -> float:
    """FLOPs of one pass without gradients."""
    return body_flops(shape, counts) + head_flops(shape, counts)


def training_flops(
    shape: ModelShape, counts: Counts, *, sequence_level: bool = False, recompute: bool = False
) -> float:
    """FLOPs of a forward and a backward: three times those of the forward.

    A loss of whole responses computes the logits of the head twice (`erpd_core.logprobs`), and
    activation checkpointing runs all layers twice.
    """
    return (4 if recompute else 3) * body_flops(shape, counts) + (
        4 if sequence_level else 3
    ) * head_flops(shape, counts)
