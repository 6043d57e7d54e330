"""Columns of token log-probs -> the token signal a student is distilled on (Sec. 3.3, 3.4; Tables 7 and 12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

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


def log_ratio(spec: SignalSpec, numerator_N: Tensor | None, denominator_N: Tensor | None, positive_N: Tensor) -> Tensor:
    """`lp_numerator - lp_denominator`, masked on positives: [N] float32, not yet whitened.

    **Arguments:** columns over response tokens, None for a side that is `none`; `positive_N` bool, tokens of right responses.
    Raises ValueError when both sides are none, or the ratio is not finite.
    """
    if numerator_N is None and denominator_N is None:
        raise ValueError("a signal needs a numerator or a denominator")
    zero = torch.zeros(len(positive_N), device=positive_N.device)
    ratio_N = (zero if numerator_N is None else numerator_N) - (zero if denominator_N is None else denominator_N)
    if not bool(torch.isfinite(ratio_N).all()):
        bad = int((~torch.isfinite(ratio_N)).sum())
        raise ValueError(f"{bad} tokens of the signal are not finite; look at the policies of its two sides")
    if spec.positives != "all":
        kept_N = ratio_N.clamp(min=0.0) if spec.positives == "max" else ratio_N.clamp(max=0.0)
        ratio_N = torch.where(positive_N, kept_N, ratio_N)
    return ratio_N


def build_signal(spec: SignalSpec, numerator_N: Tensor | None, denominator_N: Tensor | None, positive_N: Tensor) -> Tensor:
    """The fixed signal `A_hat` of a batch: masked, whitened over its response tokens, clipped. Raises as `log_ratio` and `whiten` do."""
    return clipped(whiten(log_ratio(spec, numerator_N, denominator_N, positive_N), spec.whiten), spec.clip)


def clipped(signal_N: Tensor, limit: float | None) -> Tensor:
    return signal_N if limit is None else signal_N.clamp(-limit, limit)


def weighted_sum(signals: Sequence[tuple[float, Tensor]], mode: str) -> Tensor:
    """Whitened signals times their weights, and the sum whitened again, so that its scale does not depend on the weights."""
    return whiten(torch.stack([weight * signal_N for weight, signal_N in signals]).sum(0), mode)


class Signal(Protocol):
    """The token signal of a batch, asked for by micro-batch."""

    def at(self, index: Tensor, lp_N: Tensor) -> Tensor:
        """The signal of the tokens `index`, whose log-probs under the policy in training are now `lp_N` (no gradient): [n]."""


@dataclass(frozen=True)
class FixedSignal:
    """A column held fixed: trajectory advantages in stage 1, `A_hat` in stage 2."""

    signal_N: Tensor

    def at(self, index: Tensor, lp_N: Tensor) -> Tensor:
        return self.signal_N[index].to(lp_N.device)


@dataclass(frozen=True)
class LiveSignal:
    """Fig. 7's variant: the denominator is the policy in training, so the pull ends where the student has reached the numerator.

    Centre and scale of the whitening are those of the signal at the start, where the live policy is old: both variants begin alike.
    """

    spec: SignalSpec
    numerator_N: Tensor
    old_N: Tensor
    positive_N: Tensor

    @cached_property
    def _centre_and_scale(self) -> tuple[float, float]:
        start_N = log_ratio(self.spec, self.numerator_N, self.old_N, self.positive_N).double()
        whiten(start_N, self.spec.whiten)  # refuses a constant signal
        centre = start_N.mean().item() if self.spec.whiten == "shift" else 0.0
        return centre, 1.0 if self.spec.whiten == "off" else start_N.std(unbiased=False).item()

    def at(self, index: Tensor, lp_N: Tensor) -> Tensor:
        centre, scale = self._centre_and_scale
        device = lp_N.device
        ratio_N = log_ratio(self.spec, self.numerator_N[index].to(device), lp_N.detach(), self.positive_N[index].to(device))
        return clipped((ratio_N - centre) / scale, self.spec.clip)
