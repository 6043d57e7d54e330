"""Tokens from logits: one uniform number a row, put through the distribution that temperature,
top-k and top-p leave.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erpd_core.config import SamplingConfig
from erpd_core.faults import Fault
from erpd_core.finite import non_finite

NUCLEUS = 256
"""Largest probabilities that are looked at first for a nucleus: sorting a vocabulary of 49,152
costs half as much as SmolLM2's step.
"""


def draw(logits_BV: Tensor, uniform_B: Tensor, sampling: SamplingConfig) -> Tensor:
    """One token per row by inverting the distribution function at `uniform_B`; temperature, top-k,
    then the smallest top-p nucleus.

    Raises Fault when a row's logits are NaN or infinite: any token would come of them.
    """
    logits_BV = logits_BV.double()
    if sampling.temperature != 1.0:
        logits_BV = logits_BV / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits_BV.shape[-1]:
        kth_B1 = logits_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < kth_B1, -torch.inf)
    probs_BV = torch.softmax(logits_BV, -1)
    if wrong := non_finite(probs_BV[:, 0]):  # all of a row's probabilities are NaN, or none
        raise Fault(
            f"the logits of {wrong} of {len(probs_BV)} responses are not finite",
            "take another policy, or train it with a lower learning rate",
        )
    if sampling.top_p < 1.0:
        return _draw_nucleus(probs_BV, uniform_B, sampling.top_p)
    return _invert(probs_BV, uniform_B).squeeze(1)


def _draw_nucleus(
    probs_BV: Tensor, uniform_B: Tensor, top_p: float, count: int = NUCLEUS
) -> Tensor:
    """From each row's smallest set of tokens that has `top_p`, in falling order of probability, of
    equals the lower token first.

    Looks at the `count` largest; rows whose set does not end among them are drawn again from more.
    To the last bit what sorting the whole vocabulary gives.
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
        # The set must end above the last probability seen: of several tokens that have just that
        # one, some may not be here.
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
