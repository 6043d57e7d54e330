"""Draws tokens from logits with one uniform number per row.

Temperature, top-k and top-p shape the distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erpd_core.config import SamplingConfig
from erpd_core.faults import Fault
from erpd_core.finite import non_finite

NUCLEUS = 256
"""Number of largest probabilities that are examined first for a nucleus.

Sorting a vocabulary of 49,152 costs half as much as a step of SmolLM2.
"""


def draw(logits_BV: Tensor, uniform_B: Tensor, sampling: SamplingConfig) -> Tensor:
    """Draw one token per row, [B], by inverting the distribution function at `uniform_B`.

    Applies temperature, then top-k, then the smallest top-p nucleus.

    **Raises:** Fault if a row's logits are NaN or infinite: any token could be drawn from them.
    """
    logits_BV = logits_BV.double()
    if sampling.temperature != 1.0:
        logits_BV = logits_BV / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits_BV.shape[-1]:
        kth_B1 = logits_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < kth_B1, -torch.inf)
    probs_BV = torch.softmax(logits_BV, -1)
    if wrong := non_finite(probs_BV[:, 0]):  # a row's probabilities are all NaN, or none is
        raise Fault(
            f"the logits of {wrong} of {len(probs_BV)} responses are not finite",
            "use another policy, or train it with a lower learning rate",
        )
    if sampling.top_p < 1.0:
        return _draw_nucleus(probs_BV, uniform_B, sampling.top_p)
    return _invert(probs_BV, uniform_B).squeeze(1)


def _draw_nucleus(
    probs_BV: Tensor, uniform_B: Tensor, top_p: float, count: int = NUCLEUS
) -> Tensor:
    """Draw from each row's smallest set of tokens with a total probability of `top_p`.

    Tokens are in descending order of probability; ties go to the lower token. Examines the `count`
    largest probabilities. Rows whose set does not end among them are drawn again from more. The
    result is identical, to the last bit, to sorting the whole vocabulary.
    """
    if count < probs_BV.shape[-1]:
        largest_BK, token_BK = probs_BV.topk(count, dim=-1)
        token_BK, place_BK = token_BK.sort(dim=-1)
        sorted_BK, place_BK = largest_BK.gather(1, place_BK).sort(
            dim=-1, descending=True, stable=True
        )
        token_BK = token_BK.gather(1, place_BK)
    else:
        sorted_BK, token_BK = probs_BV.sort(dim=-1, descending=True, stable=True)
    inside_BK = sorted_BK.cumsum(-1) - sorted_BK < top_p
    chosen_B = token_BK.gather(
        1, _invert(torch.where(inside_BK, sorted_BK, 0.0), uniform_B)
    ).squeeze(1)
    if count < probs_BV.shape[-1]:
        # The set must end above the last probability examined: other tokens with exactly that
        # probability may be missing here.
        wider_B = (inside_BK & (sorted_BK <= sorted_BK[:, -1:])).any(-1)
        if bool(wider_B.any()):
            chosen_B[wider_B] = _draw_nucleus(
                probs_BV[wider_B], uniform_B[wider_B], top_p, 16 * count
            )
    return chosen_B


def _invert(weight_BV: Tensor, uniform_B: Tensor) -> Tensor:
    cumulative_BV = weight_BV.cumsum(-1)
    index_B1 = torch.searchsorted(
        cumulative_BV, (uniform_B[:, None] * cumulative_BV[:, -1:]), right=True
    )
    return index_B1.clamp(max=weight_BV.shape[-1] - 1)
