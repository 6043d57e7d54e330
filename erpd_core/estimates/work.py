"""Counted work: what a model must do at least, however it is laid out. Each prompt once, the
head on response positions only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveInt

from erpd_core.estimates.shape import ModelShape
from erpd_core.refs import Frozen

if TYPE_CHECKING:
    from erpd_core.batch import TokenBatch


class Counts(Frozen):
    """What a pass goes over.

    Example: a prompt of 10 tokens and two responses of 5 (of which a pass reads 4, since nothing is
    predicted from the last): `Counts(tokens=18, pairs=10 * 11 / 2 + 2 * (4 * 5 / 2 + 4 * 10),
    predicted=10)`.
    """

    tokens: float
    """Tokens that go in."""
    pairs: float
    """Pairs of a query and a key it may see."""
    predicted: float
    """Response tokens: where the head is asked."""

    @classmethod
    def of(cls, batch: TokenBatch) -> Counts:
        """Exactly, of a batch that is there."""
        own = (batch.length_S - 1).tolist()
        prompts = [len(prompt) for prompt in batch.prompts]
        pairs = sum(length * (length + 1) / 2 for length in prompts)
        for group, length in zip(batch.group_S.tolist(), own, strict=True):
            pairs += length * (length + 1) / 2 + length * prompts[group]
        return cls(tokens=sum(prompts) + sum(own), pairs=pairs, predicted=batch.tokens)

    def times(self, factor: float) -> Counts:
        return Counts(
            tokens=self.tokens * factor,
            pairs=self.pairs * factor,
            predicted=self.predicted * factor,
        )


class Batch(Frozen):
    """So many prompts, so many responses to each, of expected lengths."""

    prompts: PositiveInt
    samples: PositiveInt
    prompt: float
    """Tokens of a prompt."""
    response: float
    """Tokens of a response, on average."""
    spread: float
    """Standard deviation of response lengths over their mean: attention's quadratic part grows
    by 1 + its square.
    """
    longest: float
    """Tokens of the longest response of a shard."""

    @property
    def sequences(self) -> int:
        return self.prompts * self.samples

    @property
    def tokens(self) -> float:
        """Response tokens: the length of a column."""
        return self.sequences * self.response

    def counts(self) -> Counts:
        """Of a pass over all of it."""
        return self.part(self.sequences)

    def part(self, sequences: int) -> Counts:
        """Of a pass over some of it, drawn at random: a prompt is read once if any response to
        it is drawn.
        """
        prompts = self.prompts * (1 - (1 - sequences / self.sequences) ** self.samples)
        own = max(0.0, self.response - 1)
        square = own**2 + (self.spread * self.response) ** 2  # on average
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
    return 2.0 * shape.head_weights * counts.predicted


def forward_flops(shape: ModelShape, counts: Counts) -> float:
    """One pass without gradients."""
    return body_flops(shape, counts) + head_flops(shape, counts)


def training_flops(
    shape: ModelShape, counts: Counts, *, sequence_level: bool = False, recompute: bool = False
) -> float:
    """Forward and backward: three times the forward's.

    A loss of whole responses makes the head's logits a second time (`erpd_core.logprobs`);
    activation checkpointing runs all layers again.
    """
    return (4 if recompute else 3) * body_flops(shape, counts) + (
        4 if sequence_level else 3
    ) * head_flops(shape, counts)
