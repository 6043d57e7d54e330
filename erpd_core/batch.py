"""TokenBatch: a rollout batch as flat tensors. Padding exists nowhere outside a model call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from erpd_core.columns import Column, PerSequence


@dataclass(frozen=True)
class TokenBatch:
    """Sampled sequences: each prompt stored once, response tokens on ONE flat axis N, sequence
    after sequence.

    Example: two prompts, two samples of the first and one of the second ::

        TokenBatch.build(prompts=[[5, 6], [7]], responses=[[1, 2], [3], [4, 4, 4]], groups=[0, 0,
        1], rewards=[1, 0, 1]) # token_N = [1 2 3 4 4 4], seq_N = [0 0 1 2 2 2], offset_S = [0 2 3
        6]
    """

    prompts: tuple[Tensor, ...]
    """One int64 tensor per group."""
    token_N: Column
    """Integers: a tensor, or, of a batch too large for memory, a column on disk."""
    offset_S: Tensor
    """int64 [S + 1]: sequence s owns tokens offset_S[s] to offset_S[s + 1]."""
    group_S: Tensor
    reward_S: Tensor
    """float32 verified outcomes, 0 or 1."""

    @classmethod
    def build(
        cls,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        groups: Sequence[int],
        rewards: Sequence[float],
    ) -> TokenBatch:
        """From Python lists. Raises ValueError when lengths disagree, or a prompt or response is
        empty.
        """
        if not len(responses) == len(groups) == len(rewards):
            raise ValueError(
                f"{len(responses)} responses, {len(groups)} groups and {len(rewards)} rewards: "
                f"they must be as many"
            )
        for name, rows in (("prompt", prompts), ("response", responses)):
            for index, row in enumerate(rows):
                if len(row) == 0:
                    raise ValueError(
                        f"{name} {index} has no tokens; an empty {name} cannot be scored"
                    )
        for index, group in enumerate(groups):
            if not 0 <= group < len(prompts):
                raise ValueError(
                    f"response {index} is of group {group}, which has no prompt; there are "
                    f"{len(prompts)} prompts"
                )
        lengths = torch.tensor([len(row) for row in responses], dtype=torch.int64)
        return cls(
            prompts=tuple(torch.as_tensor(row, dtype=torch.int64) for row in prompts),
            token_N=torch.cat([torch.as_tensor(row, dtype=torch.int64) for row in responses]),
            offset_S=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
            group_S=torch.as_tensor(groups, dtype=torch.int64),
            reward_S=torch.as_tensor(rewards, dtype=torch.float32),
        )

    @property
    def sequences(self) -> int:
        return len(self.group_S)

    @property
    def tokens(self) -> int:
        return len(self.token_N)

    @cached_property
    def length_S(self) -> Tensor:
        return self.offset_S.diff()

    @cached_property
    def seq_N(self) -> Tensor:
        """Which sequence each response token belongs to."""
        return torch.repeat_interleave(torch.arange(self.sequences), self.length_S)

    def per_token(self, value_S: Tensor) -> PerSequence:
        """A value of each sequence as a column: what `value_S[seq_N]` holds, without holding it."""
        return PerSequence(value_S, self.offset_S)

    def response(self, sequence: int) -> Tensor:
        """int64 tokens of one sequence."""
        return self.token_N[int(self.offset_S[sequence]) : int(self.offset_S[sequence + 1])].long()

    def token_index(self, sequences: Tensor) -> Tensor:
        """Positions on axis N of the tokens of `sequences`, in their order:
        `column_N[batch.token_index(s)]` is a column's part.
        """
        lengths = self.length_S[sequences]
        within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(
            lengths.cumsum(0) - lengths, lengths
        )
        return torch.repeat_interleave(self.offset_S[sequences], lengths) + within


def minibatches(sequences: int, size: int, seed: int, start: int = 0) -> Iterator[Tensor]:
    """Endless minibatches of sequence indices: one seeded permutation per epoch, the tail of an
    epoch dropped unless it is all there is.

    Step k always gets the same indices, so a resumed run (`start` = steps done) sees what an
    undisturbed one would have seen.
    """
    size = min(size, sequences)
    per_epoch = sequences // size
    step = start
    while True:
        epoch, position = divmod(step, per_epoch)
        order = torch.randperm(
            sequences, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        )
        for index in range(position, per_epoch):
            yield order[index * size : (index + 1) * size]
            step += 1
