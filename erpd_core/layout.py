"""How sequences are laid out for a model call: one flat row per micro-batch, each prompt stored once and shared by its samples.

A row holds, group after group, the prompt's tokens and then each response's tokens but its last (nothing is predicted from it). Position
ids of a response continue from its prompt. All layers but attention see one dense matrix; attention runs over `branches`: a prompt
attends to itself, a response to its prompt and to itself. Branches of similar length are padded together only inside attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from erpd_core.batch import TokenBatch


@dataclass(frozen=True)
class AttentionBucket:
    """Branches attended together: indices into the flat row, padded with `valid` masks."""

    query_BQ: Tensor
    """int64 row index of each query; padding repeats row 0."""
    key_BK: Tensor
    mask_BQK: Tensor
    """bool: may this query see this key."""
    output_M: Tensor
    """flat [B * Q] positions that are real queries."""
    row_M: Tensor
    """the row index each of them belongs to."""


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
    buckets: tuple[AttentionBucket, ...]


def plan(batch: TokenBatch, sequences: Tensor, token_budget: int) -> list[MicroBatch]:
    """Micro-batches of at most `token_budget` input tokens each (one sequence with its prompt may exceed it alone).

    Groups are taken longest first and filled first-fit; a group is split only when it alone exceeds the budget.
    """
    by_group: dict[int, list[int]] = {}
    for sequence in sequences.tolist():
        by_group.setdefault(int(batch.group_S[sequence]), []).append(sequence)
    pieces = [piece for group, members in by_group.items() for piece in _split(batch, group, members, token_budget)]
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


def _split(batch: TokenBatch, group: int, members: list[int], token_budget: int) -> list[tuple[list[int], int]]:
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
    branches: list[tuple[int, int, int, int]] = []  # (query start, query length, prompt start, prompt length); a prompt has no prefix
    row = 0
    for members in pieces:
        prompt = batch.prompts[int(batch.group_S[members[0]])]
        start, length = row, len(prompt)
        inputs.append(prompt)
        positions.append(torch.arange(length))
        branches.append((start, length, start, 0))
        row += length
        for sequence in members:
            response = batch.response(sequence)
            count = len(response) - 1
            targets.append(response)
            predict.append(torch.cat([torch.tensor([start + length - 1]), torch.arange(row, row + count)]))
            if count:
                inputs.append(response[:-1])
                positions.append(torch.arange(length, length + count))
                branches.append((row, count, start, length))
                row += count
    return MicroBatch(
        sequences=torch.tensor([s for members in pieces for s in members], dtype=torch.int64),
        input_T=torch.cat(inputs),
        position_T=torch.cat(positions),
        predict_N=torch.cat(predict),
        token_N=torch.cat(targets),
        buckets=_bucket(branches),
    )


def _bucket(branches: list[tuple[int, int, int, int]]) -> tuple[AttentionBucket, ...]:
    """Group branches so that padding wastes at most a third of a bucket's score matrix."""
    order = sorted(branches, key=lambda b: (b[1] * (b[1] + b[3]), b), reverse=True)
    buckets: list[AttentionBucket] = []
    held: list[tuple[int, int, int, int]] = []
    useful = width_q = width_k = 0
    for branch in order:
        q, k = branch[1], branch[1] + branch[3]
        new_q, new_k = max(width_q, q), max(width_k, k)
        if held and (len(held) + 1) * new_q * new_k > 1.5 * (useful + q * k) and new_q * new_k > 64 * 64:
            buckets.append(_pad(held, width_q, width_k))
            held, useful, new_q, new_k = [], 0, q, k
        held.append(branch)
        useful, width_q, width_k = useful + q * k, new_q, new_k
    buckets.append(_pad(held, width_q, width_k))
    return tuple(buckets)


def _pad(branches: list[tuple[int, int, int, int]], width_q: int, width_k: int) -> AttentionBucket:
    start_B, length_B, prefix_B, prompt_B = torch.tensor(branches, dtype=torch.int64).unbind(1)
    q = torch.arange(width_q)
    k = torch.arange(width_k)
    real_BQ = q < length_B[:, None]
    query_BQ = torch.where(real_BQ, start_B[:, None] + q, 0)
    own_BK = k - prompt_B[:, None]  # position inside the branch's own tokens; negative: inside its prompt
    key_BK = torch.where(own_BK < 0, prefix_B[:, None] + k, start_B[:, None] + own_BK)
    key_BK = torch.where(own_BK < length_B[:, None], key_BK, 0)
    mask_BQK = own_BK[:, None, :] <= q[None, :, None]
    output_M = real_BQ.flatten().nonzero().squeeze(1)
    return AttentionBucket(query_BQ, key_BK, mask_BQK, output_M, query_BQ.flatten()[output_M])
