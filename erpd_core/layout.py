"""Shared-prompt layout of a model call: one flat row per micro-batch, each prompt stored once.

A row holds, group after group, the tokens of the prompt and then those of each response but its
last (nothing is predicted from it). Position ids of a response continue from its prompt. All layers
but attention see one dense matrix. Attention runs over `branches`: a prompt attends to itself, a
response to its prompt and to itself (`erpd_core.attention`). Where it runs branch by branch,
branches of similar length are padded together (`MicroBatch.buckets`).
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
    """A prompt, or a response that continues one, as positions in the row."""

    start: int
    """Position of its first own token."""
    length: int
    """Number of its own tokens."""
    prompt_start: int
    """Position of its prompt's first token; of a prompt, its own `start`."""
    prompt_length: int
    """Tokens of the prompt before it; 0 for a prompt."""


@dataclass(frozen=True)
class AttentionBucket:
    """B branches that are attended together, padded to the longest of them.

    All fields are int64. Indices point into the flat row; padding repeats index 0.
    """

    query_BQ: Tensor
    """Row index of each query."""
    key_BK: Tensor
    """Row index of each key: a branch's prompt, then its own tokens."""
    prompt_B: Tensor
    """Number of keys that belong to the prompt."""
    output_M: Tensor
    """Positions of the M real queries in the flattened [B * Q]."""
    row_M: Tensor
    """Row index of each real query."""

    @cached_property
    def self_BQ(self) -> Tensor:
        """Index among its branch's keys of each query itself; it sees no key after that."""
        return self.prompt_B[:, None] + torch.arange(
            self.query_BQ.shape[1], device=self.prompt_B.device
        )

    @cached_property
    def mask_BQK(self) -> Tensor:
        """bool: whether a query may see a key."""
        return self.back_BQK >= 0

    @property
    def back_BQK(self) -> Tensor:
        """How many tokens a key is before a query; negative after it."""
        return self.self_BQ[..., None] - torch.arange(
            self.key_BK.shape[1], device=self.key_BK.device
        )

    def to(self, device: torch.device) -> AttentionBucket:
        moved = (self.query_BQ, self.key_BK, self.prompt_B, self.output_M, self.row_M)
        return (
            self
            if device.type == "cpu"
            else AttentionBucket(*(tensor.to(device) for tensor in moved))
        )


@dataclass(frozen=True)
class MicroBatch:
    """Some sequences of a TokenBatch, ready for one model call."""

    sequences: Tensor
    """int64 [S]: indices into the batch, in the order of `token_N`."""
    input_T: Tensor
    """int64 [T]: token ids of the row."""
    position_T: Tensor
    """int64 [T]: position ids; a response continues from its prompt."""
    predict_N: Tensor
    """int64 [N]: row index of the hidden state that predicts each response token."""
    token_N: Tensor
    """int64 [N]: the predicted response tokens, sequence after sequence."""
    branches: tuple[Branch, ...]

    @cached_property
    def buckets(self) -> tuple[AttentionBucket, ...]:
        """The branches in groups of similar length."""
        return _bucket(self.branches)


def plan(batch: TokenBatch, sequences: Tensor, token_budget: int) -> list[MicroBatch]:
    """Split sequences into micro-batches of at most `token_budget` input tokens each.

    Only a single sequence with its prompt may exceed the budget. Groups are packed longest first,
    each into the first micro-batch that has room. A group is split only if it alone exceeds the
    budget.
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
    """Lay out `pieces` on one row; each piece is a list of sequences of one group."""
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
    """Group branches so that padding wastes at most a sixth of a bucket's score matrix.

    Buckets of scores up to 64 x 64 per branch may waste more.
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
    # position among the branch's own tokens; negative inside its prompt
    own_BK = k - prompt_B[:, None]
    key_BK = torch.where(own_BK < 0, prefix_B[:, None] + k, start_B[:, None] + own_BK)
    key_BK = torch.where(own_BK < length_B[:, None], key_BK, 0)
    output_M = real_BQ.flatten().nonzero().squeeze(1)
    return AttentionBucket(query_BQ, key_BK, prompt_B, output_M, query_BQ.flatten()[output_M])
