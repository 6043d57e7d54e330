"""A rollout batch as flat tensors, without padding, and the order of its minibatches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from erpd_core.columns import Column, PerSequence


@dataclass(frozen=True)
class TokenBatch:
    """Prompts, sampled responses and their outcomes: the data that scoring and training work on.

    Each prompt is stored once. The response tokens of all sequences are on ONE flat axis N,
    sequence after sequence, and every other column (log-probs, signal, values) is a flat [N] in the
    same order. Padding exists only inside a model call (`erpd_core.layout`, `erpd_core.padded`). A
    batch has G groups (prompts), S sequences (responses) and N response tokens. Its tensors are on
    the CPU.

    `TokenBatch.build` makes one from Python lists and checks it: it raises ValueError if lengths
    disagree, if a prompt or response is empty, or if a group has no prompt. The constructor itself
    checks nothing.

    **Example:** two prompts; two responses to the first and one to the second.

        batch = TokenBatch.build(
            prompts=[[5, 6], [7]],
            responses=[[1, 2], [3], [4, 4, 4]],
            groups=[0, 0, 1],
            rewards=[1, 0, 1],
        )
        batch.token_N  # [1, 2, 3, 4, 4, 4]
        batch.offset_S  # [0, 2, 3, 6]
        batch.length_S  # [2, 1, 3]
        batch.seq_N  # [0, 0, 1, 2, 2, 2]
        batch.per_token(batch.reward_S)[:]  # [1, 1, 0, 1, 1, 1]
        batch.token_index(torch.tensor([2, 0]))  # [3, 4, 5, 0, 1]
    """

    prompts: tuple[Tensor, ...]
    """Token ids of each prompt: G int64 tensors."""
    token_N: Column
    """Token ids of all responses, integers [N]: a tensor, or a column on disk if the batch is too
    large for memory.
    """
    offset_S: Tensor
    """int64 [S + 1]: sequence s owns the tokens from offset_S[s] up to, not including,
    offset_S[s + 1].
    """
    group_S: Tensor
    """int64 [S]: index into `prompts` of each sequence's prompt."""
    reward_S: Tensor
    """float32 [S]: verified outcome R of each sequence, 0 or 1."""

    @classmethod
    def build(
        cls,
        prompts: Sequence[Sequence[int]],
        responses: Sequence[Sequence[int]],
        groups: Sequence[int],
        rewards: Sequence[float],
    ) -> TokenBatch:
        """Make a batch from Python lists, and check it.

        **Arguments:**
            prompts: Token ids of each of the G prompts.
            responses: Token ids of each of the S responses.
            groups: Index into `prompts` for each response.
            rewards: Outcome of each response, 0 or 1.
        **Raises:** ValueError if lengths disagree, if a prompt or response is empty, or if a group
            has no prompt.
        """
        if not len(responses) == len(groups) == len(rewards):
            raise ValueError(
                f"{len(responses)} responses, {len(groups)} groups and {len(rewards)} rewards: "
                f"the three numbers must be equal"
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
                    f"response {index} belongs to group {group}, which has no prompt; there are "
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
        """The number of responses, S."""
        return len(self.group_S)

    @property
    def tokens(self) -> int:
        """The number of response tokens, N."""
        return len(self.token_N)

    @cached_property
    def length_S(self) -> Tensor:
        """int64 [S]: tokens of each response."""
        return self.offset_S.diff()

    @cached_property
    def seq_N(self) -> Tensor:
        """int64 [N]: the sequence that each response token belongs to."""
        return torch.repeat_interleave(torch.arange(self.sequences), self.length_S)

    def per_token(self, value_S: Tensor) -> PerSequence:
        """One value per sequence as a column: equals `value_S[seq_N]` without storing it."""
        return PerSequence(value_S, self.offset_S)

    def response(self, sequence: int) -> Tensor:
        """int64 token ids of one response."""
        return self.token_N[int(self.offset_S[sequence]) : int(self.offset_S[sequence + 1])].long()

    def token_index(self, sequences: Tensor) -> Tensor:
        """Positions on axis N of the tokens of `sequences`, in the order given.

        `column_N[batch.token_index(sequences)]` is the part of a column that belongs to them.
        """
        lengths = self.length_S[sequences]
        within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(
            lengths.cumsum(0) - lengths, lengths
        )
        return torch.repeat_interleave(self.offset_S[sequences], lengths) + within


def minibatches(sequences: int, size: int, seed: int, start: int = 0) -> Iterator[Tensor]:
    """Endless minibatches of sequence indices, one seeded permutation per epoch.

    The tail of an epoch is dropped; a batch smaller than `size` is one minibatch per epoch. Step k
    always gets the same indices, so a run resumed with `start` (steps done) sees the same data as
    an undisturbed one.
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
