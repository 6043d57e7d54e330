"""Columns of token log-probs -> the token signal a student is distilled on (Sec. 3.3, 3.4; Tables 7 and 12)."""

from __future__ import annotations

import torch
from torch import Tensor

from erpd_core.config import SignalSpec


def whiten(value_N: Tensor, mode: str) -> Tensor:
    """`shift`: mean 0 and variance 1 over tokens; `scale`: divided by the standard deviation, signs kept; `off`: unchanged.

    Shifting can flip signs, so it is a choice and not a habit. Raises ValueError when all values are equal: there is nothing to distil.
    """
    std = value_N.double().std(unbiased=False)
    if not torch.isfinite(std) or std <= 1e-12:
        raise ValueError("the signal is the same on every token, so there is nothing to distil; choose other policies for its two sides")
    if mode == "off":
        return value_N
    centre = value_N.double().mean() if mode == "shift" else 0.0
    return ((value_N.double() - centre) / std).to(value_N.dtype)


def build_signal(spec: SignalSpec, numerator_N: Tensor | None, denominator_N: Tensor | None, positive_N: Tensor) -> Tensor:
    """`A_hat = lp_numerator - lp_denominator`, masked on positives, clipped, then whitened: [N] float32.

    **Arguments:** columns over the batch's response tokens, None for a side that is `none`; `positive_N` bool, tokens of right responses.
    Raises ValueError when both sides are none, or the signal is constant or not finite.
    """
    if numerator_N is None and denominator_N is None:
        raise ValueError("a signal needs a numerator or a denominator")
    zero = torch.zeros(len(positive_N))
    ratio_N = (zero if numerator_N is None else numerator_N) - (zero if denominator_N is None else denominator_N)
    if not bool(torch.isfinite(ratio_N).all()):
        bad = int((~torch.isfinite(ratio_N)).sum())
        raise ValueError(f"{bad} tokens of the signal are not finite; look at the policies of its two sides")
    if spec.positives != "all":
        kept_N = ratio_N.clamp(min=0.0) if spec.positives == "max" else ratio_N.clamp(max=0.0)
        ratio_N = torch.where(positive_N, kept_N, ratio_N)
    if spec.clip is not None:
        ratio_N = ratio_N.clamp(-spec.clip, spec.clip)
    return whiten(ratio_N, spec.whiten)
