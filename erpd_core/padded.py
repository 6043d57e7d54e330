"""Padded layout for models that cannot take a flat row: one row per sequence with its prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from erpd_core.batch import TokenBatch


@dataclass(frozen=True)
class PaddedBatch:
    """Some sequences of a TokenBatch as S rows of L tokens, padded at the end.

    In a causal model no real token sees the padding.
    """

    sequences: Tensor
    """int64 [S]: indices into the batch, in the order of `token_N`."""
    input_SL: Tensor
    """int64 token ids: in each row the prompt and the response but its last token; 0 as padding."""
    predict_N: Tensor
    """int64 [N]: position in the flattened [S * L] of the hidden state that predicts each response
    token.
    """
    token_N: Tensor
    """int64 [N]: the predicted response tokens, sequence after sequence."""


def plan_padded(batch: TokenBatch, sequences: Tensor, token_budget: int) -> list[PaddedBatch]:
    """Split sequences, longest first, into batches of at most `token_budget` tokens with padding.

    Only a single sequence may exceed the budget.
    """
    width = {
        int(s): len(batch.prompts[int(batch.group_S[s])]) + int(batch.length_S[s]) - 1
        for s in sequences
    }
    held: list[list[int]] = []
    for sequence in sorted(width, key=lambda s: (-width[s], s)):
        if held and width[held[-1][0]] * (len(held[-1]) + 1) <= token_budget:
            held[-1].append(sequence)
        else:
            held.append([sequence])
    return [_pad(batch, members) for members in held]


def _pad(batch: TokenBatch, members: list[int]) -> PaddedBatch:
    prompts = [batch.prompts[int(batch.group_S[s])] for s in members]
    responses = [batch.response(s) for s in members]
    input_SL = pad_sequence(
        [torch.cat([p, r[:-1]]) for p, r in zip(prompts, responses, strict=True)], batch_first=True
    )
    width = input_SL.shape[1]
    firsts = [row * width + len(prompt) - 1 for row, prompt in enumerate(prompts)]
    return PaddedBatch(
        sequences=torch.tensor(members, dtype=torch.int64),
        input_SL=input_SL,
        predict_N=torch.cat(
            [first + torch.arange(len(r)) for first, r in zip(firsts, responses, strict=True)]
        ),
        token_N=torch.cat(responses),
    )
