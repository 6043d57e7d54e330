"""One value per response token, wherever it lies: in memory, on disk, or worked out where it is
read.

A batch of 16,000 responses of 20,000 tokens has 320 million of them, 1.28 GB a float32 column; a
minibatch reads a few per cent of that. So what trains reads columns by place and never whole. A
tensor is a column too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

STRETCH = 1 << 18
"""Tokens worked on at once where a whole column is gone through: 1 MB of float32, so that what
is made of them stays in the cache.
"""


class Column(Protocol):
    """Values on axis N."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: Tensor | slice, /) -> Tensor:
        """The values at `where`, places on axis N: [n], in memory."""


@dataclass(frozen=True)
class PerSequence:
    """A value of each sequence, as a column over its tokens.

    Example: `PerSequence(torch.tensor([1.0, 0.0]), torch.tensor([0, 2, 3]))[:]` is `[1, 1, 0]`.
    """

    value_S: Tensor
    offset_S: Tensor
    """int64 [S + 1]: sequence s owns tokens offset_S[s] to offset_S[s + 1]."""

    def __len__(self) -> int:
        return int(self.offset_S[-1])

    def __getitem__(self, where: Tensor | slice) -> Tensor:
        if isinstance(where, Tensor):
            return self.value_S[torch.searchsorted(self.offset_S, where, right=True) - 1]
        start, stop, step = where.indices(len(self))
        if stop <= start or step != 1:
            return self[torch.arange(start, stop, step)]
        first, last = (
            torch.searchsorted(self.offset_S, torch.tensor([start, stop - 1]), right=True) - 1
        ).tolist()
        edge = self.offset_S[first : last + 2].clamp(start, stop)
        return torch.repeat_interleave(self.value_S[first : last + 1], edge.diff())


def stretches(count: int) -> Iterator[slice]:
    """Axis N in stretches of at most `STRETCH`; a small batch is one."""
    return (slice(start, min(start + STRETCH, count)) for start in range(0, count, STRETCH))
