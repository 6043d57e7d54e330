"""Who trains a model: one process alone, or several that each hold a part of it and work on a part
of every minibatch.

A loss is normalised by the totals of the whole minibatch (`erpd_core.losses.Totals`), so what the
processes find only has to be ADDED: their losses, their gradients (by FSDP, which is told to sum),
the tokens their statistics are of. Two workers and one differ by the order of sums, and by nothing
else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from erpd_core.batch import TokenBatch

T = TypeVar("T")


class WorkerGroup:
    """A process that trains a whole model by itself."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Is this the one that writes files and says how far it is?"""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """What each member said, in the order of ranks. Every member has to call it."""
        return [value]

    def clip(self, parameters: Iterable[torch.nn.Parameter], max_norm: float) -> float:
        """Scale gradients down to the L2 norm `max_norm`; the norm there was."""
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm).item()


SINGLE = WorkerGroup()


class DistributedGroup(WorkerGroup):
    """A member of the process group of this process, with its shard of every parameter."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def clip(self, parameters: Iterable[torch.nn.Parameter], max_norm: float) -> float:
        """As one process does, from the norms of all shards: each member scales its own by the
        same number.
        """
        grads = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        own = torch.nn.utils.get_total_norm(grads).item()
        norm = math.sqrt(math.fsum(one * one for one in self.gather(own)))
        if math.isfinite(norm):
            for grad in grads:
                grad.mul_(min(1.0, max_norm / (norm + 1e-6)))
        return norm


def local(tensor: Tensor) -> Tensor:
    """This process's rows of a sharded tensor (they share its memory); a tensor that is not
    sharded, itself.
    """
    # a DTensor, whose import takes a second
    shard: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return shard


def rows_of(length: int, rank: int, size: int) -> tuple[int, int]:
    """First row of a rank's shard and the first one after it: as many for each as there are,
    rounded up, fewer for the last.
    """
    each = -(-length // size)
    return min(rank * each, length), min((rank + 1) * each, length)


def partition(batch: TokenBatch, sequences: Tensor, size: int) -> list[Tensor]:
    """A minibatch's sequences for each of `size` workers, about as many input tokens for each; one
    may get none.

    Samples of a prompt go to one worker, which stores the prompt once (`erpd_core.layout`), unless
    they are more than its fair share.
    """
    if size == 1:
        return [sequences]
    by_group: dict[int, list[int]] = {}
    for sequence in sequences.tolist():
        by_group.setdefault(int(batch.group_S[sequence]), []).append(sequence)
    prompt = {group: len(batch.prompts[group]) for group in by_group}
    cost = {
        group: prompt[group] + sum(int(batch.length_S[s]) - 1 for s in members)
        for group, members in by_group.items()
    }
    fair = sum(cost.values()) / size
    pieces: list[tuple[list[int], int]] = []
    for group, members in by_group.items():
        if cost[group] <= fair:
            pieces.append((members, cost[group]))
        else:
            pieces += [([s], prompt[group] + int(batch.length_S[s]) - 1) for s in members]
    dealt: list[list[int]] = [[] for _ in range(size)]
    loads = [0] * size
    for members, tokens in sorted(pieces, key=lambda piece: -piece[1]):
        least = loads.index(min(loads))
        dealt[least] += members
        loads[least] += tokens
    return [torch.tensor(members, dtype=torch.int64) for members in dealt]
