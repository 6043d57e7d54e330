"""AVG@K, pass@K, intervals clustered by problem, and the paired comparison of two policies.

Samples of one problem are not independent, so the unit of uncertainty is the problem: a mean over problems of per-problem means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from erpd_core.refs import Score

Outcomes = Mapping[str, Sequence[float]]
"""Problem id -> its K outcomes, 0 or 1."""

_Z95 = NormalDist().inv_cdf(0.975)


def avg_at_k(outcomes: Outcomes) -> Score:
    """Mean accuracy over K samples a problem with a 95 % problem-clustered interval (normal, cut to [0, 1]).

    When every problem has the same mean the normal interval would have no width; Wilson's interval over problems is used instead.
    Raises ValueError when there is no problem, or problems have different numbers of samples.
    """
    k = _same_k(outcomes)
    means = [sum(row) / k for row in outcomes.values()]
    n = len(means)
    avg = math.fsum(means) / n
    var = math.fsum((m - avg) ** 2 for m in means) / (n - 1) if n > 1 else 0.0
    lo, hi = _wilson(avg, n) if max(means) == min(means) else (avg - _Z95 * math.sqrt(var / n), avg + _Z95 * math.sqrt(var / n))
    return Score(avg=avg, k=k, problems=n, ci95=(max(0.0, lo), min(1.0, hi)))


def pass_at_k(outcomes: Outcomes, k: int) -> float:
    """Chance that at least one of k samples is right: the unbiased estimator 1 - C(n - c, k) / C(n, k) (Chen et al. 2021)."""
    n = _same_k(outcomes)
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs 1 <= k <= {n} samples a problem")
    values = [1.0 - math.comb(n - round(sum(row)), k) / math.comb(n, k) for row in outcomes.values()]
    return math.fsum(values) / len(values)


@dataclass(frozen=True)
class Comparison:
    """Paired difference a - b over the problems both were tried on."""

    difference: float
    standard_error: float
    problems: int

    def beyond_noise(self, z: float, at_least: float = 0.0) -> bool:
        """Is the difference larger than `at_least` by more than z standard errors?"""
        return self.problems > 1 and self.difference - z * self.standard_error > at_least


def compare(a: Outcomes, b: Outcomes) -> Comparison:
    """Paired by problem. Raises ValueError when the problems differ: the comparison would not be paired."""
    if a.keys() != b.keys():
        raise ValueError(f"policies were tried on different problems ({len(a.keys() ^ b.keys())} are not shared)")
    ka, kb = _same_k(a), _same_k(b)
    gains = [sum(a[problem]) / ka - sum(b[problem]) / kb for problem in a]
    n = len(gains)
    mean = math.fsum(gains) / n
    var = math.fsum((g - mean) ** 2 for g in gains) / (n - 1) if n > 1 else 0.0
    return Comparison(difference=mean, standard_error=math.sqrt(var / n), problems=n)


def _same_k(outcomes: Outcomes) -> int:
    sizes = {len(row) for row in outcomes.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"AVG@K needs the same number of samples, at least one, for every problem; found {sorted(sizes) or 'no problem'}")
    return sizes.pop()


def _wilson(p: float, n: int) -> tuple[float, float]:
    z2 = _Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return centre - half, centre + half
