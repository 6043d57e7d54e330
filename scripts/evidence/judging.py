"""How a claim is judged: effects paired by seed, their 95 % interval over seeds, and one rule from
intervals to a verdict.

The rule was fixed before the final runs:

- An effect is worked out within each seed (same base, same prompts, same batch), so what seeds
  differ in cancels.
- Its interval is Student's t over seeds: mean +- t(0.975, n - 1) s / sqrt(n).
- A part of a claim is *shown* when the whole interval lies on the claimed side of its bound,
  *against* when it lies on the other side, *open* otherwise. A bound is 0 unless the part says so
  ("within 1 point").
- A claim is reproduced when all its parts are shown; contradicted when its first part, the main
  one, is against; partly when some part is shown; else not at this scale.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import t

from scripts.evidence.record import Record

Side = Literal["above", "below"]
Standing = Literal["shown", "against", "open"]
Verdict = Literal["reproduced", "partly", "not at this scale", "contradicted", "not run"]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval. Example: `Interval(4.2, 3.1, 5.3, 8)`"""

    mean: float
    low: float
    high: float
    seeds: int


def interval(values: Sequence[float]) -> Interval:
    """Student's t. **Raises:** ValueError: fewer than two values."""
    if len(values) < 2:
        raise ValueError(f"an interval over seeds needs two of them, and there are {len(values)}")
    mean = statistics.fmean(values)
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


@dataclass(frozen=True)
class Part:
    """One comparison that a claim consists of.

    Example: `Part("entropy kept", "nats", lambda one: one.arms["plain"].policy("student").entropy)`
    """

    what: str
    unit: str
    effect: Callable[[Record], float]
    side: Side = "above"
    """On which side of the bound the paper's finding lies."""
    bound: float = 0.0

    def standing(self, found: Interval) -> Standing:
        low, high = found.low - self.bound, found.high - self.bound
        if self.side == "below":
            low, high = -high, -low
        return "shown" if low > 0 else "against" if high < 0 else "open"


@dataclass(frozen=True)
class Claim:
    """One finding of the paper, and what here would show it."""

    number: int
    title: str
    paper: str
    """What the paper says, and where."""
    study: str
    parts: tuple[Part, ...]
    figure: str = ""
    remark: str = ""
    """What a reader has to know besides: a difference from the paper's setting, a cause that was
    looked for.
    """


@dataclass(frozen=True)
class FollowUp:
    """Why a claim does not show as the paper has it: an explanation, and what it predicts, tried
    on seeds that it was not made from.
    """

    explanation: str
    study: str
    parts: tuple[Part, ...]
    """What the explanation predicts."""


@dataclass(frozen=True)
class Finding:
    """Comparisons and what was found of each; no intervals when fewer than two seeds were run."""

    parts: tuple[Part, ...]
    intervals: tuple[Interval, ...]

    @property
    def seeds(self) -> int:
        return self.intervals[0].seeds if self.intervals else 0

    @property
    def standings(self) -> tuple[Standing, ...]:
        return tuple(part.standing(found) for part, found in zip(self.parts, self.intervals))

    @property
    def verdict(self) -> Verdict:
        if not self.intervals:
            return "not run"
        if all(one == "shown" for one in self.standings):
            return "reproduced"
        if self.standings[0] == "against":
            return "contradicted"
        return "partly" if "shown" in self.standings else "not at this scale"


def judge(parts: tuple[Part, ...], records: Sequence[Record]) -> Finding:
    """The parts over the seeds there are; without two of them nothing was found."""
    if len(records) < 2:
        return Finding(parts, ())
    return Finding(parts, tuple(interval([part.effect(one) for one in records]) for part in parts))
