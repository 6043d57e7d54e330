"""Racing: samples policies in rounds, and stops as soon as the answer is known.

Policies answer the same problems with the same seeds. A pass adds one sample per problem. After
every round of passes an e-process for each pair says whether one policy is better than the other:
a supermartingale of the differences, so looking after every round does not raise the error rate
above its nominal level (Howard et al. 2021, "Time-uniform, nonparametric, nonasymptotic confidence
sequences", Theorem 4; the product of bets is that of Fan et al. 2015).

The statement is about these problems: the mean over them of the probability of a right answer. That
is the score which infinitely many samples would give, and problems of unequal difficulty do not
widen the bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from erpd_core.scoring import Comparison, Outcomes, compare

WIDTH = 2.0
"""Width of the range of a difference of two outcomes, -1 to 1."""
BETS = tuple(0.9 / WIDTH / 1.6**number for number in range(7))
"""The bets of the mixture, each below 1 / WIDTH. The largest wins soonest where policies are far
apart, the smallest where they differ by some two points on a thousand problems. Each further one
would cost all others a part of the capital.
"""


class EProcess:
    """Evidence that the mean difference of two policies over the problems exceeds `margin`.

    If it does not, the probability that `largest` ever reaches 1 / alpha is at most alpha.

    **Arguments:**
        problems: Number of problems; each pass has one difference for each, in the same order.
        margin: Difference in accuracy (-1 to 1) that has to be exceeded.
    """

    def __init__(self, problems: int, margin: float = 0.0) -> None:
        self.margin = margin
        self.largest = 1.0
        """Largest value so far."""
        self._sums = [0.0] * problems
        self._passes = 0
        self._spread = 0.0
        """Sum of squared deviations of the differences from what earlier passes predicted."""

    def add(self, differences: Sequence[float]) -> None:
        """Add a pass: the difference of the two outcomes, -1 to 1, on each problem."""
        seen = len(self._sums) * self._passes
        mean = math.fsum(self._sums) / seen if seen else 0.0
        for problem, difference in enumerate(differences):
            predicted = (self._sums[problem] + mean) / (self._passes + 1)
            self._spread += (difference - predicted) ** 2
            self._sums[problem] += difference
        self._passes += 1
        excess = math.fsum(self._sums) - self.margin * len(self._sums) * self._passes
        exponents = [bet * excess - _price(bet) * self._spread for bet in BETS]
        top = max(exponents)
        log_value = top + math.log(
            math.fsum(math.exp(each - top) for each in exponents) / len(BETS)
        )
        self.largest = max(self.largest, math.exp(min(log_value, 700.0)))


def _price(bet: float) -> float:
    """What a bet costs per unit of spread: psi_E of Howard et al. 2021, with scale WIDTH."""
    return (-math.log1p(-WIDTH * bet) - WIDTH * bet) / WIDTH**2


@dataclass(frozen=True)
class SequentialComparison(Comparison):
    """A paired difference a - b, with an answer that may be asked for after every sample."""

    proven: bool
    """Whether an e-process says that the difference exceeds the margin."""

    def beyond_noise(self, z: float, at_least: float = 0.0) -> bool:
        """Whether the difference is proven; level and margin are those of `compare_in_sequence`."""
        return self.proven


def compare_in_sequence(
    a: Outcomes, b: Outcomes, alpha: float, margin: float = 0.0
) -> SequentialComparison:
    """Compare two policies paired by problem and sample, over the samples that both have.

    **Arguments:**
        alpha: Probability, at most, that a difference which does not exceed the margin is called
            proven, however often the comparison is repeated with more samples.
        margin: Difference in accuracy (-1 to 1) that has to be exceeded.
    **Raises:** ValueError if the problems differ.
    """
    samples = min(len(row) for outcomes in (a, b) for row in outcomes.values())
    shared_a, shared_b = (
        {problem: row[:samples] for problem, row in outcomes.items()} for outcomes in (a, b)
    )
    plain = compare(shared_a, shared_b)
    process = EProcess(len(shared_a), margin)
    for sample in range(samples):
        process.add([shared_a[problem][sample] - shared_b[problem][sample] for problem in shared_a])
    return SequentialComparison(
        plain.difference, plain.standard_error, plain.problems, process.largest >= 1 / alpha
    )


class Race:
    """Finds the best of several policies, and drops each as soon as another is proven better.

    The best one is dropped with a probability of at most `alpha`: each of the others gets an equal
    share of it.

    **Arguments:**
        names: Names of the candidates, in the order that decides ties.
        field: Number of candidates before some were left out by what their samples said; `alpha` is
            shared among all of them. If not set, that of `names`.
    """

    def __init__(self, names: Sequence[str], alpha: float, field: int | None = None) -> None:
        self.names = tuple(names)
        self.alive = list(self.names)
        self.dropped: dict[str, str] = {}
        """Candidate -> the one that was proven better."""
        self.samples = dict.fromkeys(self.names, 0)
        """Candidate -> its samples per problem so far."""
        self._threshold = max(1, (field or len(self.names)) - 1) / alpha
        self._right = dict.fromkeys(self.names, 0.0)
        self._problems: tuple[str, ...] = ()
        self._pairs: dict[tuple[str, str], EProcess] = {}

    def average(self, name: str) -> float:
        """Mean accuracy of a candidate over all its samples."""
        return self._right[name] / (self.samples[name] * len(self._problems))

    @property
    def leader(self) -> str:
        """The best candidate that is left; ties go to the first."""
        return max(self.alive, key=self.average) if len(self.alive) > 1 else self.alive[0]

    def add(self, round_outcomes: Mapping[str, Outcomes]) -> None:
        """Add a round: outcomes of every candidate that is left, on the same problems and seeds.

        **Raises:** ValueError if candidates or problems differ from those of the race.
        """
        if round_outcomes.keys() != set(self.alive):
            raise ValueError(f"a round needs outcomes of {', '.join(self.alive)}, and of no other")
        self._problems = self._problems or tuple(round_outcomes[self.alive[0]])
        passes = {name: self._passes(outcomes) for name, outcomes in round_outcomes.items()}
        for name, rows in passes.items():
            self.samples[name] += len(rows)
            self._right[name] += math.fsum(math.fsum(row) for row in rows)
        for better in self.alive:
            for worse in self.alive:
                if better != worse:
                    self._compare(better, worse, passes)
        beaten = self._beaten()
        self.dropped |= beaten
        self.alive = [name for name in self.alive if name not in beaten]

    def _beaten(self) -> dict[str, str]:
        """Candidate that another one is proven better than -> the best of those others."""
        by = {
            worse: [
                better
                for better in self.alive
                if better != worse and self._pairs[better, worse].largest >= self._threshold
            ]
            for worse in self.alive
            if worse != self.leader
        }
        return {worse: max(better, key=self.average) for worse, better in by.items() if better}

    def _compare(self, better: str, worse: str, passes: Mapping[str, list[list[float]]]) -> None:
        process = self._pairs.setdefault((better, worse), EProcess(len(self._problems)))
        for a, b in zip(passes[better], passes[worse], strict=True):
            process.add([x - y for x, y in zip(a, b, strict=True)])

    def _passes(self, outcomes: Outcomes) -> list[list[float]]:
        """The outcomes pass by pass, in the order of the race's problems."""
        if outcomes.keys() != set(self._problems):
            raise ValueError("the candidates of a race answer the same problems")
        rows = [outcomes[problem] for problem in self._problems]
        return [list(of_pass) for of_pass in zip(*rows, strict=True)]
