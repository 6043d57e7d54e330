"""Judges claims: effects paired by seed, their 95 % intervals over seeds, and the verdict.

The rule was fixed before the final runs:

- An effect is computed within each seed (same base, same prompts, same batch), so that differences
  between seeds cancel.
- Its interval is Student's t over seeds: mean +- t(0.975, n - 1) s / sqrt(n).
- A part of a claim is *shown* if the whole interval is on the claimed side of its bound, *against*
  if it is on the other side, *open* otherwise. The bound is 0 unless the part says otherwise
  ("within 1 point").
- A claim is reproduced if all its parts are shown; contradicted if its first part, the main one, is
  against; partly if some part is shown; otherwise not at this scale.
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
    """Return Student's t interval of the values. Raises ValueError for fewer than two values."""
    if len(values) < 2:
        raise ValueError(f"an interval over seeds needs two of them, and there are {len(values)}")
    mean = statistics.fmean(values)
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


@dataclass(frozen=True)
class Part:
    """One comparison of a claim.

    **Example:** `Part("entropy kept", "nats", lambda record: policy(record, "plain").entropy)`
    """

    what: str
    unit: str
    effect: Callable[[Record], float]
    side: Side = "above"
    """The side of the bound on which the paper's finding is."""
    bound: float = 0.0

    def standing(self, found: Interval) -> Standing:
        """Return whether an interval shows this part, is against it, or leaves it open."""
        low, high = found.low - self.bound, found.high - self.bound
        if self.side == "below":
            low, high = -high, -low
        return "shown" if low > 0 else "against" if high < 0 else "open"


@dataclass(frozen=True)
class Claim:
    """One finding of the paper, and the comparisons that would show it here."""

    number: int
    title: str
    paper: str
    """What the paper says, and where."""
    study: str
    parts: tuple[Part, ...]
    figure: str = ""
    remark: str = ""
    """Further facts for the reader: a difference from the paper's setting, a possible cause."""


@dataclass(frozen=True)
class FollowUp:
    """An explanation of why a claim does not reproduce, and its predictions.

    They are tested on seeds that the explanation was not derived from.
    """

    explanation: str
    study: str
    parts: tuple[Part, ...]
    """What the explanation predicts."""


@dataclass(frozen=True)
class SingleRun:
    """A study that runs on one seed, because it is expensive; its effects have no interval."""

    remark: str
    study: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Finding:
    """Comparisons and their intervals; there are no intervals for fewer than two seeds."""

    parts: tuple[Part, ...]
    intervals: tuple[Interval, ...]

    @property
    def seeds(self) -> int:
        return self.intervals[0].seeds if self.intervals else 0

    @property
    def standings(self) -> tuple[Standing, ...]:
        return tuple(part.standing(bounds) for part, bounds in zip(self.parts, self.intervals))

    @property
    def verdict(self) -> Verdict:
        if not self.intervals:
            return "not run"
        if all(standing == "shown" for standing in self.standings):
            return "reproduced"
        if self.standings[0] == "against":
            return "contradicted"
        return "partly" if "shown" in self.standings else "not at this scale"


def judge(parts: tuple[Part, ...], records: Sequence[Record]) -> Finding:
    """Compute the intervals of the parts over the seeds of the records."""
    if len(records) < 2:
        return Finding(parts, ())
    return Finding(
        parts, tuple(interval([part.effect(record) for record in records]) for part in parts)
    )
