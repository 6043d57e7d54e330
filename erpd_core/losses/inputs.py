"""The inputs of every loss, and the aggregations it can choose from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Metrics = dict[str, Tensor]
"""Per-token diagnostics, [N] each; the training loop averages them over the minibatch."""


@dataclass(frozen=True)
class Totals:
    """Counts over the whole minibatch.

    Losses divide by these, so that micro-batches add up to the loss of the minibatch in any layout.
    """

    tokens: int
    """Response tokens."""
    sequences: int
    """Responses."""
    positive_tokens: int
    """Tokens of right responses."""


@dataclass(frozen=True)
class LossInputs:
    """Flat tensors of one micro-batch, or of a stretch of its tokens.

    A stretch is used only for losses that are sums over tokens. Values per sequence (`reward_S`,
    `length_S`) always describe whole responses, so that a stretch adds exactly its share.

    **Example:** two responses of 2 and 1 tokens: `seq_N = [0, 0, 1]`, `length_S = [2, 1]`,
    `reward_S = [1, 0]`.
    """

    lp_N: Tensor
    """log pi_theta(a_t | s_t) in nats, with gradient."""
    old_N: Tensor
    """log pi_old(a_t | s_t) in nats, of the policy that sampled the batch."""
    signal_N: Tensor
    """Advantage A of each token: in stage 1 from the outcomes (one value per trajectory, for PPO
    one per token), in stage 2 the whitened log-ratio.
    """
    entropy_N: Tensor
    """Entropy of theta's next-token distribution in nats, with gradient."""
    reward_S: Tensor
    """Verified outcome R of each response, 0 or 1."""
    seq_N: Tensor
    """int64: index of each token's response on axis S."""
    length_S: Tensor
    """Tokens of each response."""
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
        """Mean over sequences of each response's token mean: all lengths weigh the same."""
        return self.sequence_mean(self.per_sequence(value_N) / self.length_S)

    @property
    def reward_N(self) -> Tensor:
        """Outcome R of each token's response."""
        return self.reward_S[self.seq_N]
