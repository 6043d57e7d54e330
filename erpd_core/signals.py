"""Columns of token log-probs -> the token signal a student is distilled on (Sec. 3.3, 3.4; Tables 7
and 12).

A signal is a column (`erpd_core.columns`) worked out where it is read. Only centre and scale of its
whitening need all of it, and they are found by going through it once, stretch by stretch: no more
than a stretch is ever in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from erpd_core.columns import Column, stretches
from erpd_core.config import SignalSpec
from erpd_core.faults import Fault

Where = Tensor | slice


@dataclass(frozen=True)
class Whitening:
    """`(value - centre) / scale`; None leaves values as they are."""

    centre: float
    scale: float | None

    def __call__(self, value_n: Tensor) -> Tensor:
        return (
            value_n
            if self.scale is None
            else ((value_n.double() - self.centre) / self.scale).to(value_n.dtype)
        )


def whitening(value_N: Column, mode: str) -> Whitening:
    """How to whiten a column. `shift`: mean 0 and variance 1 over tokens; `scale`: divided by the
    standard deviation, signs kept; `off`.

    Shifting can flip signs, so it is a choice and not a habit. Raises Fault when all values are
    equal: there is nothing to distil.
    """
    mean, std = moments(value_N)
    if not math.isfinite(std) or std <= 1e-12:
        raise Fault(
            "the signal is the same on every token, so there is nothing to distil",
            "choose other policies for its two sides, or another mask (`positives`)",
        )
    return Whitening(mean if mode == "shift" else 0.0, None if mode == "off" else std)


def moments(value_N: Column) -> tuple[float, float]:
    """Mean and standard deviation over all tokens, in float64; moments of stretches are put
    together as by Chan, Golub and LeVeque.
    """
    count, mean, std = 0, 0.0, 0.0
    for part in stretches(len(value_N)):
        value_n = value_N[part].double()
        more, its_mean, its_std = (
            len(value_n),
            value_n.mean().item(),
            value_n.std(unbiased=False).item(),
        )
        if count == 0:
            count, mean, std = more, its_mean, its_std
            continue
        share, apart = more / (count + more), its_mean - mean
        std = math.sqrt((1 - share) * std**2 + share * its_std**2 + share * (1 - share) * apart**2)
        mean += share * apart
        count += more
    return mean, std


def whiten(value_N: Tensor, mode: str) -> Tensor:
    """`value_N` whitened over its tokens. Raises as `whitening` does."""
    return whitening(value_N, mode)(value_N)


def log_ratio(
    spec: SignalSpec, numerator_n: Tensor | None, denominator_n: Tensor | None, positive_n: Tensor
) -> Tensor:
    """`lp_numerator - lp_denominator` of some tokens, masked on positives: [n] float32, not yet
    whitened.

    **Arguments:** log-probs, None for a side that is `none`; `positive_n` bool, tokens of right
    responses. Raises ValueError when both sides are none, Fault when the ratio is not finite.
    """
    if numerator_n is None and denominator_n is None:
        raise ValueError("a signal needs a numerator or a denominator")
    zero = torch.zeros(len(positive_n), device=positive_n.device)
    ratio_n = (zero if numerator_n is None else numerator_n) - (
        zero if denominator_n is None else denominator_n
    )
    # a sum costs less than a mask
    if not bool(torch.isfinite(ratio_n.sum())) and (bad := int((~torch.isfinite(ratio_n)).sum())):
        raise Fault(
            f"{bad} tokens of the signal are not finite", "look at the policies of its two sides"
        )
    if spec.positives != "all":
        kept_n = ratio_n.clamp(min=0.0) if spec.positives == "max" else ratio_n.clamp(max=0.0)
        ratio_n = torch.where(positive_n, kept_n, ratio_n)
    return ratio_n


@dataclass(frozen=True)
class LogRatio:
    """`log_ratio` as a column."""

    spec: SignalSpec
    numerator_N: Column | None
    denominator_N: Column | None
    positive_N: Column

    def __len__(self) -> int:
        return len(self.positive_N)

    def __getitem__(self, where: Where) -> Tensor:
        numerator_n = None if self.numerator_N is None else self.numerator_N[where]
        denominator_n = None if self.denominator_N is None else self.denominator_N[where]
        return log_ratio(self.spec, numerator_n, denominator_n, self.positive_N[where])


@dataclass(frozen=True)
class WeightedSum:
    """Columns times their weights, added up."""

    parts: Sequence[tuple[float, Column]]

    def __len__(self) -> int:
        return len(self.parts[0][1])

    def __getitem__(self, where: Where) -> Tensor:
        return torch.stack([weight * column[where] for weight, column in self.parts]).sum(0)


@dataclass(frozen=True)
class Whitened:
    """A column whitened, then clipped to +- `limit`."""

    value_N: Column
    how: Whitening
    limit: float | None = None

    def __len__(self) -> int:
        return len(self.value_N)

    def __getitem__(self, where: Where) -> Tensor:
        return clipped(self.how(self.value_N[where]), self.limit)


def build_signal(
    spec: SignalSpec, numerator_N: Column | None, denominator_N: Column | None, positive_N: Column
) -> Column:
    """The fixed signal `A_hat` of a batch: masked, whitened over its response tokens, clipped.

    Goes through the columns once, for the whitening. Raises as `log_ratio` and `whitening` do.
    """
    ratio_N = LogRatio(spec, numerator_N, denominator_N, positive_N)
    return Whitened(ratio_N, whitening(ratio_N, spec.whiten), spec.clip)


def clipped(signal_N: Tensor, limit: float | None) -> Tensor:
    return signal_N if limit is None else signal_N.clamp(-limit, limit)


def weighted_sum(signals: Sequence[tuple[float, Column]], mode: str) -> Column:
    """Whitened signals times their weights, and the sum whitened again, so that its scale does
    not depend on the weights.
    """
    total_N = WeightedSum(signals)
    return Whitened(total_N, whitening(total_N, mode))


class Signal(Protocol):
    """The token signal of a batch, asked for by micro-batch."""

    def at(self, index: Tensor, lp_N: Tensor) -> Tensor:
        """The signal of the tokens `index`, whose log-probs under the policy in training are now
        `lp_N` (no gradient): [n].
        """


@dataclass(frozen=True)
class FixedSignal:
    """A column held fixed: trajectory advantages in stage 1, `A_hat` in stage 2."""

    signal_N: Column

    def at(self, index: Tensor, lp_N: Tensor) -> Tensor:
        return self.signal_N[index].to(lp_N.device)


@dataclass(frozen=True)
class LiveSignal:
    """Fig. 7's variant: the denominator is the policy in training, so the pull ends where the
    student has reached the numerator.

    Centre and scale of the whitening are those of the signal at the start, where the live policy is
    old: both variants begin alike.
    """

    spec: SignalSpec
    numerator_N: Column
    old_N: Column
    positive_N: Column

    @cached_property
    def _start(self) -> Whitening:
        return whitening(
            LogRatio(self.spec, self.numerator_N, self.old_N, self.positive_N), self.spec.whiten
        )

    def at(self, index: Tensor, lp_N: Tensor) -> Tensor:
        device = lp_N.device
        ratio_N = log_ratio(
            self.spec,
            self.numerator_N[index].to(device),
            lp_N.detach(),
            self.positive_N[index].to(device),
        )
        return clipped((ratio_N - self._start.centre) / (self._start.scale or 1.0), self.spec.clip)
