"""What every loss sees, and the aggregations it may name."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Metrics = dict[str, Tensor]
"""Per-token diagnostics, [N] each; the training loop averages them over the minibatch."""


@dataclass(frozen=True)
class Totals:
    """Counts of the whole minibatch, so that micro-batches add up to its loss whatever the
    layout.
    """

    tokens: int
    sequences: int
    positive_tokens: int


@dataclass(frozen=True)
class LossInputs:
    """Flat tensors of one micro-batch: whole responses, or, for a loss that is a sum over tokens, a
    stretch of their tokens.

    What is per sequence (`reward_S`, `length_S`) is always of whole responses, so that a stretch
    adds exactly its share.

    Example: two responses of 2 and 1 tokens: `seq_N = [0, 0, 1]`, `length_S = [2, 1]`, `reward_S =
    [1, 0]`.
    """

    lp_N: Tensor
    """log pi_theta(a_t | s_t), with gradient."""
    old_N: Tensor
    """log pi_old of the policy that sampled the batch."""
    signal_N: Tensor
    """Token advantage: the trajectory's, repeated, in stage 1; the whitened log-ratio in stage
    2.
    """
    entropy_N: Tensor
    """Entropy of theta's next-token distribution, with gradient."""
    reward_S: Tensor
    seq_N: Tensor
    length_S: Tensor
    totals: Totals

    def per_sequence(self, value_N: Tensor) -> Tensor:
        """Sum over each response's tokens: [S]."""
        return torch.zeros_like(self.reward_S).index_add(0, self.seq_N, value_N)

    def token_mean(self, value_N: Tensor) -> Tensor:
        """Mean over all tokens of the minibatch."""
        return value_N.sum() / self.totals.tokens

    def sequence_mean(self, value_S: Tensor) -> Tensor:
        """Mean over all sequences of the minibatch."""
        return value_S.sum() / self.totals.sequences

    def sequence_mean_of_token_means(self, value_N: Tensor) -> Tensor:
        """Each response's token mean, averaged over sequences: a long response weighs as much as
        a short one.
        """
        return self.sequence_mean(self.per_sequence(value_N) / self.length_S)

    @property
    def reward_N(self) -> Tensor:
        return self.reward_S[self.seq_N]
