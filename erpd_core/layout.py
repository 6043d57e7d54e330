"""How sequences are laid out for a model call: one flat row per micro-batch, each prompt stored
once and shared by its samples.

A row holds, group after group, the prompt's tokens and then each response's tokens but its last
(nothing is predicted from it). Position ids of a response continue from its prompt. All layers but
attention see one dense matrix; attention runs over `branches`: a prompt attends to itself, a
response to its prompt and to itself. `erpd_core.attention` runs it; where that is done branch by
branch, branches of similar length are padded together (`MicroBatch.buckets`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from erpd_core.batch import TokenBatch


class Branch(NamedTuple):
    """A prompt, or a response that continues one: row positions of its own tokens, and of the
    prompt before them (none before a prompt).
    """

    start: int
    length: int
    prompt_start: int
    prompt_length: int


@dataclass(frozen=True)
class AttentionBucket:
    """Branches attended together, padded to the longest: int64 indices into the flat row.
    Padding repeats row 0.
    """

    query_BQ: Tensor
    """Row index of each query."""
    key_BK: Tensor
    """Row index of each key: a branch's prompt, then its own tokens."""
    prompt_B: Tensor
    """How many of the keys are the prompt's."""
    output_M: Tensor
    """flat [B * Q] positions that are real queries."""
    row_M: Tensor
    """the row index each of them belongs to."""

    @cached_property
    def self_BQ(self) -> Tensor:
        """Which of its branch's keys each query is itself: it sees all before it, and none
        after.
        """
        return self.prompt_B[:, None] + torch.arange(
            self.query_BQ.shape[1], device=self.prompt_B.device
        )

    @cached_property
    def mask_BQK(self) -> Tensor:
        """bool: may this query see this key."""
        return self.back_BQK >= 0

    @property
    def back_BQK(self) -> Tensor:
        """How many tokens before a query a key stands."""
        return self.self_BQ[..., None] - torch.arange(
            self.key_BK.shape[1], device=self.key_BK.device
        )

    def to(self, device: torch.device) -> AttentionBucket:
        moved = (self.query_BQ, self.key_BK, self.prompt_B, self.output_M, self.row_M)
        return self if device.type == "cpu" else AttentionBucket(*(one.to(device) for one in moved))


@dataclass(frozen=True)
class MicroBatch:
    """Some sequences of a TokenBatch, ready for one model call."""

    sequences: Tensor
    """int64: which sequences of the batch, in the order of `token_N`."""
    input_T: Tensor
    position_T: Tensor
    predict_N: Tensor
    """int64 row index whose hidden state predicts each response token."""
    token_N: Tensor
    """the response tokens predicted, sequence after sequence."""
    branches: tuple[Branch, ...]

    @cached_property
    def buckets(self) -> tuple[AttentionBucket, ...]:
        """The branches in groups of similar length."""
        return _bucket(self.branches)


def plan(batch: TokenBatch, sequences: Tensor, token_budget: int) -> list[MicroBatch]:
    """Micro-batches of at most `token_budget` input tokens each (one sequence with its prompt may
    exceed it alone).

    Groups are taken longest first and filled first-fit; a group is split only when it alone exceeds
    the budget.
    """
    by_group: dict[int, list[int]] = {}
    for sequence in sequences.tolist():
        by_group.setdefault(int(batch.group_S[sequence]), []).append(sequence)
    pieces = [
        piece
        for group, members in by_group.items()
        for piece in _split(batch, group, members, token_budget)
    ]
    pieces.sort(key=lambda piece: -piece[1])
    bins: list[tuple[list[list[int]], int]] = []
    for members, cost in pieces:
        for index, (held, used) in enumerate(bins):
            if used + cost <= token_budget:
                held.append(members)
                bins[index] = (held, used + cost)
                break
        else:
            bins.append(([members], cost))
    return [lay_out(batch, held) for held, _ in bins]


def _split(
    batch: TokenBatch, group: int, members: list[int], token_budget: int
) -> list[tuple[list[int], int]]:
    prompt = len(batch.prompts[group])
    members = sorted(members, key=lambda s: (-int(batch.length_S[s]), s))
    pieces: list[tuple[list[int], int]] = []
    for sequence in members:
        cost = int(batch.length_S[sequence]) - 1
        for index, (held, used) in enumerate(pieces):
            if used + cost <= token_budget:
                held.append(sequence)
                pieces[index] = (held, used + cost)
                break
        else:
            pieces.append(([sequence], prompt + cost))
    return pieces


def lay_out(batch: TokenBatch, pieces: Sequence[Sequence[int]]) -> MicroBatch:
    """Lay out `pieces`, each a list of sequences of one group, on one row."""
    inputs: list[Tensor] = []
    positions: list[Tensor] = []
    predict: list[Tensor] = []
    targets: list[Tensor] = []
    branches: list[Branch] = []
    row = 0
    for members in pieces:
        prompt = batch.prompts[int(batch.group_S[members[0]])]
        start, length = row, len(prompt)
        inputs.append(prompt)
        positions.append(torch.arange(length))
        branches.append(Branch(start, length, start, 0))
        row += length
        for sequence in members:
            response = batch.response(sequence)
            count = len(response) - 1
            targets.append(response)
            predict.append(
                torch.cat([torch.tensor([start + length - 1]), torch.arange(row, row + count)])
            )
            if count:
                inputs.append(response[:-1])
                positions.append(torch.arange(length, length + count))
                branches.append(Branch(row, count, start, length))
                row += count
    return MicroBatch(
        sequences=torch.tensor([s for members in pieces for s in members], dtype=torch.int64),
        input_T=torch.cat(inputs),
        position_T=torch.cat(positions),
        predict_N=torch.cat(predict),
        token_N=torch.cat(targets),
        branches=tuple(branches),
    )


def _bucket(branches: Sequence[Branch]) -> tuple[AttentionBucket, ...]:
    """Group branches so that padding wastes at most a sixth of a bucket's score matrix, of small
    ones more.
    """
    order = sorted(
        branches, key=lambda b: (b.length * (b.length + b.prompt_length), b), reverse=True
    )
    buckets: list[AttentionBucket] = []
    held: list[Branch] = []
    useful = width_q = width_k = 0
    for branch in order:
        q, k = branch.length, branch.length + branch.prompt_length
        new_q, new_k = max(width_q, q), max(width_k, k)
        if (
            held
            and (len(held) + 1) * new_q * new_k > 1.2 * (useful + q * k)
            and new_q * new_k > 64 * 64
        ):
            buckets.append(_pad(held, width_q, width_k))
            held, useful, new_q, new_k = [], 0, q, k
        held.append(branch)
        useful, width_q, width_k = useful + q * k, new_q, new_k
    buckets.append(_pad(held, width_q, width_k))
    return tuple(buckets)


def _pad(branches: list[Branch], width_q: int, width_k: int) -> AttentionBucket:
    start_B, length_B, prefix_B, prompt_B = torch.tensor(branches, dtype=torch.int64).unbind(1)
    q = torch.arange(width_q)
    k = torch.arange(width_k)
    real_BQ = q < length_B[:, None]
    query_BQ = torch.where(real_BQ, start_B[:, None] + q, 0)
    # position inside the branch's own tokens; negative: inside its prompt
    own_BK = k - prompt_B[:, None]
    key_BK = torch.where(own_BK < 0, prefix_B[:, None] + k, start_B[:, None] + own_BK)
    key_BK = torch.where(own_BK < length_B[:, None], key_BK, 0)
    output_M = real_BQ.flatten().nonzero().squeeze(1)
    return AttentionBucket(query_BQ, key_BK, prompt_B, output_M, query_BQ.flatten()[output_M])
