"""What an evaluation knows beyond the contract's REPORT: more measures of each benchmark, and
what came of each problem.
"""

from __future__ import annotations

from erpd_core.refs import Frozen


class BenchmarkDetails(Frozen):
    """More measures of one policy on one benchmark, all on the same K samples a problem.

    Example: `BenchmarkDetails(pass_at_k={1: 0.5, 2: 0.6}, majority=0.55, majority_ci95=(0.4, 0.7),
    truncated=0.01, unanswered=0.02, length=812.5, entropy=0.31, kl_old=0.0, kl_base=0.02)`
    """

    pass_at_k: dict[int, float]
    """k -> chance that at least one of k samples is right, at powers of two and at K."""
    majority: float | None
    """majority@K (`erpd_core.scoring.majority_at_k`); None where responses are programs, which
    have no answer to vote for.
    """
    majority_ci95: tuple[float, float] | None
    truncated: float
    """Share of responses cut at the length limit."""
    unanswered: float
    """Share of responses in which the grader found no answer."""
    length: float
    """Response tokens per sample."""
    entropy: float
    """Nats per token; `kl_old` and `kl_base` too, as in the REPORT but of this benchmark's
    samples alone.
    """
    kl_old: float
    kl_base: float


class ProblemResult(Frozen):
    """What one policy made of one problem.

    Example: `ProblemResult(benchmark="AIME25", problem="3", gold="70", samples=32, solved=5,
    length=20113.4, truncated=9, unanswered=11, answer="588", votes=12)`
    """

    benchmark: str
    problem: str
    gold: str
    """Empty for a program, whose gold is its unit tests."""
    samples: int
    solved: int
    """How many of the samples are right."""
    length: float
    """Response tokens per sample."""
    truncated: int
    unanswered: int
    answer: str | None
    """The most frequent answer as first written, of equals the first; None when there is none."""
    votes: int
    """How many samples gave it."""
