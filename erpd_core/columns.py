"""Columns: one value per response token, in memory, on disk, or computed when it is read.

A batch of 16,000 responses of 20,000 tokens has 320 million tokens, so a float32 column takes
1.28 GB. A minibatch reads a few percent of it. Training code therefore reads columns by position
and never whole. A tensor is a column too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

STRETCH = 1 << 18
"""Tokens processed at once in a pass over a whole column: 1 MB of float32, so that intermediate
results stay in the cache.
"""


class Column(Protocol):
    """Values on axis N, read by position."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: Tensor | slice, /) -> Tensor:
        """The values at the positions `where` on axis N: [n], in memory."""


@dataclass(frozen=True)
class PerSequence:
    """One value per sequence, read as a column over the tokens of the sequences.

    **Example:** `PerSequence(torch.tensor([1.0, 0.0]), torch.tensor([0, 2, 3]))[:]` is `[1, 1, 0]`.
    """

    value_S: Tensor
    offset_S: Tensor
    """int64 [S + 1]: sequence s owns the tokens from offset_S[s] up to, not including,
    offset_S[s + 1].
    """

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
    """Slices that cover axis N in stretches of at most `STRETCH` tokens."""
    return (slice(start, min(start + STRETCH, count)) for start in range(0, count, STRETCH))
