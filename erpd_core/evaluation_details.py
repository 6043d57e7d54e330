"""Details of an evaluation beyond the contract's REPORT: per benchmark and per problem."""

from __future__ import annotations

from erpd_core.refs import Frozen


class BenchmarkDetails(Frozen):
    """More measures of one policy on one benchmark, all on the same K samples per problem.

    **Example:** `BenchmarkDetails(pass_at_k={1: 0.5, 2: 0.6}, majority=0.55,
    majority_ci95=(0.4, 0.7), truncated=0.01, unanswered=0.02, length=812.5, entropy=0.31,
    kl_old=0.0, kl_base=0.02)`
    """

    pass_at_k: dict[int, float]
    """k -> probability that at least one of k samples is right, at powers of two and at K."""
    majority: float | None
    """majority@K (`erpd_core.scoring.majority_at_k`); None for programs, which have no answer to
    vote for.
    """
    majority_ci95: tuple[float, float] | None
    """95 % interval of `majority`, clustered by problem."""
    truncated: float
    """Share of responses cut at the length limit."""
    unanswered: float
    """Share of responses in which the grader found no answer."""
    length: float
    """Response tokens per sample."""
    entropy: float
    """Entropy in nats per token, on the samples of this benchmark alone."""
    kl_old: float
    """KL(policy || the iteration's start), k1, nats per token, on the samples of this benchmark
    alone.
    """
    kl_base: float
    """KL(policy || the campaign's base), likewise."""


class ProblemResult(Frozen):
    """The result of one policy on one problem.

    **Example:** `ProblemResult(benchmark="AIME25", problem="3", gold="70", samples=32, solved=5,
    length=20113.4, truncated=9, unanswered=11, answer="588", votes=12)`
    """

    benchmark: str
    problem: str
    gold: str
    """Gold answer; empty for a code problem, which has unit tests instead."""
    samples: int
    solved: int
    """Number of right samples."""
    length: float
    """Response tokens per sample."""
    truncated: int
    """Number of samples cut at the length limit."""
    unanswered: int
    """Number of samples in which the grader found no answer."""
    answer: str | None
    """The most frequent answer, as first written; ties go to the earliest. None without answers."""
    votes: int
    """Number of samples that gave `answer`."""
