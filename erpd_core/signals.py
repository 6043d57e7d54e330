"""Token signals for distillation, from columns of log-probs (Sec. 3.3, 3.4; Tables 7 and 12).

A signal is a column (`erpd_core.columns`) that is computed when it is read. Only the center and
scale of its whitening need the whole column. They come from one pass, stretch by stretch, so no
more than a stretch is ever in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from erpd_core.columns import Column, PerSequence, stretches
from erpd_core.config import SignalSpec
from erpd_core.faults import Fault

Where = Tensor | slice


@dataclass(frozen=True)
class Whitening:
    """The affine map `(value - center) / scale`."""

    center: float
    scale: float | None
    """None leaves values as they are."""

    def __call__(self, value_n: Tensor) -> Tensor:
        return (
            value_n
            if self.scale is None
            else ((value_n.double() - self.center) / self.scale).to(value_n.dtype)
        )


def whitening(value_N: Column, mode: str) -> Whitening:
    """The whitening of a column.

    **Arguments:**
        mode: `shift` gives mean 0 and variance 1 over tokens. `scale` divides by the standard
            deviation and keeps signs. `off` changes nothing. Shifting can flip signs, so it is a
            choice and not a habit.
    **Raises:** Fault if all values are equal, or one is not finite: there is nothing to distil.
    """
    mean, std = moments(value_N)
    if not math.isfinite(std) or std <= 1e-12:
        raise Fault(
            "the signal is the same on every token, so there is nothing to distil",
            "choose other policies for its two sides, or another mask (`positives`)",
        )
    return Whitening(mean if mode == "shift" else 0.0, None if mode == "off" else std)


def moments(value_N: Column) -> tuple[float, float]:
    """Mean and standard deviation (of the population) over all tokens, in float64.

    The moments of stretches are merged by the method of Chan, Golub and LeVeque.
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
    """`value_N` whitened over its tokens. Raises Fault as `whitening` does."""
    return whitening(value_N, mode)(value_N)


def log_ratio(
    spec: SignalSpec, numerator_n: Tensor | None, denominator_n: Tensor | None, positive_n: Tensor
) -> Tensor:
    """`lp_numerator - lp_denominator` of n tokens, masked on right responses, not whitened.

    **Arguments:**
        spec: Its `positives` says which part of the ratio is kept on right responses.
        numerator_n, denominator_n: Log-probs in nats; None for the side `none`, which counts as 0.
        positive_n: bool, tokens of right responses.
    **Returns:** [n] float32, nats.
    **Raises:** ValueError if both sides are None, Fault if the ratio is not finite.
    """
    if numerator_n is None and denominator_n is None:
        raise ValueError("a signal needs a numerator or a denominator")
    zero = torch.zeros(len(positive_n), device=positive_n.device)
    ratio_n = (zero if numerator_n is None else numerator_n) - (
        zero if denominator_n is None else denominator_n
    )
    # a sum is cheaper than a mask
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
    """`log_ratio` as a column, in nats."""

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
    """Weighted sum of columns."""

    parts: Sequence[tuple[float, Column]]
    """(weight, column) of each part."""

    def __len__(self) -> int:
        return len(self.parts[0][1])

    def __getitem__(self, where: Where) -> Tensor:
        return torch.stack([weight * column[where] for weight, column in self.parts]).sum(0)


@dataclass(frozen=True)
class Whitened:
    """A column whitened, then clipped to +- `limit` (standard deviations; nats if not whitened)."""

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

    It reads the columns once, for the whitening.

    **Arguments:**
        numerator_N, denominator_N: Log-probs in nats; None for the side `none`.
        positive_N: bool, tokens of right responses.
    **Raises:** ValueError if both sides are None, Fault if the ratio is not finite or the same on
        every token.
    """
    ratio_N = LogRatio(spec, numerator_N, denominator_N, positive_N)
    return Whitened(ratio_N, whitening(ratio_N, spec.whiten), spec.clip)


def clipped(signal_N: Tensor, limit: float | None) -> Tensor:
    return signal_N if limit is None else signal_N.clamp(-limit, limit)


def weighted_sum(signals: Sequence[tuple[float, Column]], mode: str) -> Column:
    """Weighted sum of whitened signals, whitened again.

    The second whitening makes its scale independent of the weights.
    """
    total_N = WeightedSum(signals)
    return Whitened(total_N, whitening(total_N, mode))


class Signal(Protocol):
    """The token signal of a batch, read by micro-batch."""

    def at(self, index: Tensor, lp_N: Tensor) -> Tensor:
        """The signal of the tokens at positions `index`: [n], on the device of `lp_N`.

        `lp_N` are the current log-probs of these tokens under the policy in training, without
        gradient.
        """


@dataclass(frozen=True)
class FixedSignal:
    """A signal that does not change: trajectory advantages in stage 1, `A_hat` in stage 2."""

    signal_N: Column

    def at(self, index: Tensor, lp_N: Tensor) -> Tensor:
        return self.signal_N[index].to(lp_N.device)

    def present_S(self, offset_S: Tensor) -> Tensor:
        """bool [S]: whether any token of a sequence has a signal.

        **Arguments:**
            offset_S: int64 [S + 1], as in `TokenBatch`.
        """
        if isinstance(self.signal_N, PerSequence):
            return self.signal_N.value_S != 0
        present_S = torch.zeros(len(offset_S) - 1, dtype=torch.bool)
        for stretch in stretches(len(self.signal_N)):
            there = stretch.start + self.signal_N[stretch].nonzero().squeeze(1)
            present_S[torch.searchsorted(offset_S, there, right=True) - 1] = True
        return present_S


@dataclass(frozen=True)
class LiveSignal:
    """The variant of Fig. 7: the denominator is the policy in training.

    The pull ends where the student has reached the numerator. The center and scale of the whitening
    are those of the signal at the start, where the live policy equals old, so both variants start
    with the same signal.
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
        return clipped((ratio_N - self._start.center) / (self._start.scale or 1.0), self.spec.clip)
