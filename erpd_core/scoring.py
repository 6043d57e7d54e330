"""AVG@K, pass@K, majority@K with 95 % intervals, and the paired comparison of two policies.

Samples of one problem are not independent, so the unit of uncertainty is the problem. Every score
is a mean over problems of per-problem means, and its interval is clustered by problem.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from erpd_core.refs import Score

Outcomes = Mapping[str, Sequence[float]]
"""Problem id -> outcomes of its K samples, 0 or 1."""

Votes = Mapping[str, Sequence[Hashable | None]]
"""Problem id -> answers of its K samples, equal for equivalent answers; None where a sample has no
answer.
"""

_Z95 = NormalDist().inv_cdf(0.975)


def avg_at_k(outcomes: Outcomes) -> Score:
    """Mean accuracy over K samples per problem, with a 95 % interval clustered by problem.

    The interval is normal, cut to [0, 1]. If every problem has the same mean, the normal interval
    would have no width; Wilson's interval over problems is used instead.

    **Raises:** ValueError if there is no problem, or if problems differ in their number of samples.
    """
    k = _same_k(outcomes)
    avg, ci95 = clustered([sum(row) / k for row in outcomes.values()])
    return Score(avg=avg, k=k, problems=len(outcomes), ci95=ci95)


def clustered(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean of one value in [0, 1] per problem, and its 95 % interval as in `avg_at_k`."""
    n = len(values)
    mean, error = _mean_and_error(values)
    low, high = (
        _wilson(mean, n)
        if max(values) == min(values)
        else (mean - _Z95 * error, mean + _Z95 * error)
    )
    return mean, (max(0.0, low), min(1.0, high))


def pass_at_k(outcomes: Outcomes, k: int) -> float:
    """Probability that at least one of k samples is right, as a mean over problems.

    The unbiased estimator 1 - C(n - c, k) / C(n, k) for c right ones of n samples (Chen et al.
    2021).

    **Raises:** ValueError unless 1 <= k <= n.
    """
    n = _same_k(outcomes)
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs 1 <= k <= {n} samples per problem")
    values = [
        1.0 - math.comb(n - round(sum(row)), k) / math.comb(n, k) for row in outcomes.values()
    ]
    return math.fsum(values) / len(values)


def pass_curve(outcomes: Outcomes) -> dict[int, float]:
    """pass@k at the powers of two below K and at K: the gain of more tries."""
    n = _same_k(outcomes)
    return {
        k: pass_at_k(outcomes, k) for k in (*(2**i for i in range(n.bit_length()) if 2**i < n), n)
    }


def majority_at_k(outcomes: Outcomes, votes: Votes) -> dict[str, float]:
    """majority@K of each problem: the outcome of its most frequent answer (self-consistency).

    Self-consistency is by Wang et al. 2023. The value is the mean outcome of the samples that gave
    the most frequent answer. Tied answers count equally, which is the expectation of drawing one of
    them at random, so no tie is decided by luck. Samples without an answer do not vote; without any
    vote the value is 0.

    **Returns:** Problem -> value in [0, 1].
    **Raises:** ValueError if `outcomes` and `votes` differ in problems or numbers of samples.
    """
    k = _same_k(outcomes)
    if outcomes.keys() != votes.keys() or any(len(row) != k for row in votes.values()):
        raise ValueError("majority@K needs one vote, or None, for every sample of every problem")
    return {problem: _majority(row, votes[problem]) for problem, row in outcomes.items()}


def _majority(outcomes: Sequence[float], votes: Sequence[Hashable | None]) -> float:
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    won = [
        outcome
        for outcome, vote in zip(outcomes, votes, strict=True)
        if vote is not None and counts[vote] == most
    ]
    return sum(won) / len(won) if won else 0.0


@dataclass(frozen=True)
class Comparison:
    """Paired difference a - b of two policies over the problems that both were tried on."""

    difference: float
    """Mean over problems of the difference in accuracy, -1 to 1."""
    standard_error: float
    problems: int

    @property
    def ci95(self) -> tuple[float, float]:
        """95 % interval, normal.

        If all problems have the same difference, the half width is that of Wilson's interval at 0
        rather than 0. With fewer than two problems the interval is (-1, 1).
        """
        if self.problems < 2:
            return -1.0, 1.0
        half = _Z95 * self.standard_error or _wilson(0.0, self.problems)[1]
        return max(-1.0, self.difference - half), min(1.0, self.difference + half)

    def beyond_noise(self, z: float, at_least: float = 0.0) -> bool:
        """Whether the difference exceeds `at_least` by more than z standard errors."""
        return self.problems > 1 and self.difference - z * self.standard_error > at_least


def compare(a: Outcomes, b: Outcomes) -> Comparison:
    """Compare two policies paired by problem. Raises ValueError if their problems differ."""
    ka, kb = _paired(a, b)
    gains = [sum(a[problem]) / ka - sum(b[problem]) / kb for problem in a]
    mean, error = _mean_and_error(gains)
    return Comparison(difference=mean, standard_error=error, problems=len(gains))


def p_value(a: Outcomes, b: Outcomes) -> float:
    """Two-sided p-value of the paired difference, by the exact sign-flip test.

    The null hypothesis is that the policies are equally good on every problem. Then the sign of
    each problem's difference is random and independent, and all 2^n choices of signs are equally
    likely. They are counted by the value of their sum, without sampling and without an assumed
    distribution.

    **Raises:** ValueError if the problems differ.
    """
    ka, kb = _paired(a, b)
    steps = [abs(round(sum(a[problem])) * kb - round(sum(b[problem])) * ka) for problem in a]
    unit = math.gcd(*steps)
    if unit == 0:
        return 1.0
    observed = (
        abs(sum(round(sum(a[problem])) * kb - round(sum(b[problem])) * ka for problem in a)) // unit
    )
    total = sum(steps) // unit
    chance = [1.0]  # chance[u]: probability that the positive signs add up to u units
    for step in (step // unit for step in steps if step):
        nothing = [0.0] * step
        chance = [
            0.5 * (down + up) for down, up in zip(chance + nothing, nothing + chance, strict=True)
        ]
    return min(1.0, math.fsum(p for up, p in enumerate(chance) if abs(2 * up - total) >= observed))


def _paired(a: Outcomes, b: Outcomes) -> tuple[int, int]:
    if a.keys() != b.keys():
        raise ValueError(
            f"policies were tried on different problems ({len(a.keys() ^ b.keys())} are not shared)"
        )
    return _same_k(a), _same_k(b)


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error, which is 0 for a single value."""
    n = len(values)
    mean = math.fsum(values) / n
    var = math.fsum((value - mean) ** 2 for value in values) / (n - 1) if n > 1 else 0.0
    return mean, math.sqrt(var / n)


def _same_k(outcomes: Outcomes) -> int:
    sizes = {len(row) for row in outcomes.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"AVG@K needs the same number of samples, at least one, for every problem; found "
            f"{sorted(sizes) or 'no problem'}"
        )
    return sizes.pop()


def _wilson(p: float, n: int) -> tuple[float, float]:
    z2 = _Z95**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return center - half, center + half
