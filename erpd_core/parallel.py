"""Worker groups: one process that trains a model alone, or several that share it.

In a group, each process holds a part of the model and works on a part of every minibatch. A loss
is normalized by the totals of the whole minibatch (`erpd_core.losses.Totals`), so the results of
the processes only have to be ADDED: losses, gradients (by FSDP, which is set to sum) and the sums
behind the statistics. One worker and several differ only by the order of sums.
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
    """Index of this process in the group."""
    size: int = 1
    """Number of processes in the group."""

    @property
    def first(self) -> bool:
        """Whether this process writes the files and reports progress."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all members in the order of ranks. Every member has to call it."""
        return [value]

    def clip(self, parameters: Iterable[torch.nn.Parameter], max_norm: float) -> float:
        """Scale gradients down to the L2 norm `max_norm`; returns the norm before."""
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm).item()


SINGLE = WorkerGroup()


class DistributedGroup(WorkerGroup):
    """A process of a torch process group; it holds its shard of every parameter."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def clip(self, parameters: Iterable[torch.nn.Parameter], max_norm: float) -> float:
        """Clip by the norm over all shards; every member scales its own by the same factor."""
        grads = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        own = torch.nn.utils.get_total_norm(grads).item()
        norm = math.sqrt(math.fsum(shard * shard for shard in self.gather(own)))
        if math.isfinite(norm):
            for grad in grads:
                grad.mul_(min(1.0, max_norm / (norm + 1e-6)))
        return norm


def local(tensor: Tensor) -> Tensor:
    """This process's rows of a sharded tensor, as a view; any other tensor unchanged."""
    # not isinstance: importing DTensor takes a second
    shard: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return shard


def rows_of(length: int, rank: int, size: int) -> tuple[int, int]:
    """The rows of a rank's shard, as (first, first after the last).

    Every shard has ceil(length / size) rows; the last ranks get fewer, or none.
    """
    rows = -(-length // size)
    return min(rank * rows, length), min((rank + 1) * rows, length)


def partition(batch: TokenBatch, sequences: Tensor, size: int) -> list[Tensor]:
    """Split a minibatch's sequences among `size` workers, with about equal input tokens for each.

    All samples of a prompt go to one worker, which stores the prompt once (`erpd_core.layout`),
    unless they exceed its fair share. A worker may get none.
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
