"""95 % intervals of means and differences of scores that are independent of each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from erpd_core.refs import Score

Interval = tuple[float, float]


def mean_score(scores: Sequence[Score]) -> tuple[float, Interval]:
    """The mean over benchmarks with its interval; each side's widths add in squares."""
    count = max(1, len(scores))
    mean = math.fsum(score.avg for score in scores) / count
    low, high = (
        math.hypot(*(score.ci95[side] - score.avg for score in scores)) / count for side in (0, 1)
    )
    return mean, (mean - low, mean + high)


def mean_difference(pairs: Sequence[tuple[Score, Score]]) -> tuple[float, Interval]:
    """The mean of `a - b` over pairs with its interval.

    Both of a pair answered the same problems but are taken as independent: the half-widths add in
    squares, which makes the interval wider than a paired one.
    """
    difference = math.fsum(a.avg - b.avg for a, b in pairs) / len(pairs)
    widths = [
        max(score.ci95[1] - score.avg, score.avg - score.ci95[0])
        for pair in pairs
        for score in pair
    ]
    half = math.hypot(*widths) / len(pairs)
    return difference, (difference - half, difference + half)
