"""The layout for models that cannot take a flat row: one row a sequence, its prompt before it,
padded to the longest of similar length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from erpd_core.batch import TokenBatch


@dataclass(frozen=True)
class PaddedBatch:
    """Some sequences of a TokenBatch as rows that end in padding, which a causal model never
    looks at from a real token.
    """

    sequences: Tensor
    """int64: which sequences of the batch, in the order of `token_N`."""
    input_SL: Tensor
    """int64 tokens, each row its prompt and its response but the last token; 0 where padded."""
    predict_N: Tensor
    """int64 position in flat [S * L] whose hidden state predicts each response token."""
    token_N: Tensor


def plan_padded(batch: TokenBatch, sequences: Tensor, token_budget: int) -> list[PaddedBatch]:
    """Rows of at most `token_budget` tokens together, padding included (one sequence may exceed
    it alone), longest first.
    """
    whole = {
        int(s): len(batch.prompts[int(batch.group_S[s])]) + int(batch.length_S[s]) - 1
        for s in sequences
    }
    held: list[list[int]] = []
    for sequence in sorted(whole, key=lambda s: (-whole[s], s)):
        if held and whole[held[-1][0]] * (len(held[-1]) + 1) <= token_budget:
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
