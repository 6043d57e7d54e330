"""References: small, serializable values that stages pass to each other; no tensors, no paths.

An identity (`id`) is a content hash computed by the store (`tasks/store/store.py`). The same spec
on the same inputs has the same id on every machine.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["base", "teacher", "unlearned", "extra", "student", "online"]
Verdict = Literal["correct", "wrong", "unparsable", "timeout"]
Mode = Literal["math_verify", "polaris", "matharena"]
"""Graders of other projects, each with its own way to find the answer."""
Extractor = Literal["auto", "boxed", "hash", "code", Mode]
"""How a response is graded. Our own rule reads the answer from a box or a final line (`auto`), from
a box only (`boxed`), or after the last '#' (`hash`). `code` runs the last block of code on its unit
tests. The others are the graders of other projects.
"""


class Frozen(BaseModel):
    """Base of every value in this package: immutable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(Frozen):
    """One verifiable problem.

    **Example:** `Problem(id="tiny-017", prompt="12+34+56=", answer="102")`
    """

    id: str
    prompt: str
    """The text given to the policy, or to its chat template if it has one."""
    answer: str
    """The gold answer, as the grader reads it. For a code problem, its unit tests: JSON of inputs,
    outputs and, for functions, fn_name.
    """


class PolicyRef(Frozen):
    """A policy: weights, config and tokenizer in one artifact of the store.

    **Example:** `PolicyRef(id="policy-5f1c...", role="teacher", step=40)`
    """

    id: str
    role: Role = "base"
    step: int = 0
    """The step of its training at which it was kept: optimizer steps, or fresh batches of an online
    stage.
    """


class Overlap(Frozen):
    """Counts of training prompts that share text with validation or benchmark problems."""

    action: Literal["report", "drop", "refuse"]
    checked: int
    """Compared prompts: the whole pool with `drop`, else the drawn ones."""
    exact: int
    """Compared prompts that equal such a problem but for spacing, case and dollar signs."""
    ngram: int
    """Further compared prompts that share enough word n-grams with such a problem."""
    benchmarks: dict[str, int]
    """"validation" or name of a benchmark -> overlapping prompts; 0 where there are none."""


class ProblemsRef(Frozen):
    """A fixed, ordered list of problems in the store."""

    id: str
    name: str
    count: int
    extractor: Extractor = "auto"
    """How responses to them are graded."""
    origin: str | None = None
    """`id@commit` on the hub, for problems from there."""
    overlap: Overlap | None = None
    """Result of the check of training prompts against validation and benchmarks; None without a
    check.
    """


class Refill(Frozen):
    """What was sampled until a batch had enough groups with both right and wrong responses."""

    wanted: int
    """Groups with both that the batch was to have."""
    sampled: int
    """Prompts that were sampled."""
    all_right: int
    """Groups left out because every response was right."""
    all_wrong: int
    """Groups left out because no response was right."""
    surplus: int
    """Groups with both that were sampled beyond those wanted."""

    def __str__(self) -> str:
        return (
            f"{self.sampled} prompts were sampled for {self.wanted} groups with both right and "
            f"wrong responses; left out: {self.all_right} all right, {self.all_wrong} all wrong, "
            f"{self.surplus} more than wanted"
        )


class RolloutRef(Frozen):
    """Graded samples of one policy on one problem list: tokens, text and verdicts in shards."""

    id: str
    policy: PolicyRef
    problems: ProblemsRef
    samples: int
    """Samples per problem (K of AVG@K)."""
    sequences: int
    tokens: int
    """Response tokens over all sequences: the length N of every column over this batch."""
    accuracy: float
    """Share of right responses."""
    refill: Refill | None = None
    """What was left out; None if all groups were kept."""


class JudgedRef(Frozen):
    """An LLM judge's verdicts on the responses of a rollout that the rules do not call correct.

    The verdicts of the rollout itself stay as they are.
    """

    id: str
    rollouts: str
    """Identity of the RolloutRef that was judged."""
    outcomes: dict[str, int]
    """The judge's outcome (`tasks.evaluation.judge.Outcome`) -> number of responses; `same` counts
    those that became correct.
    """
    calls: int
    """Requests made; a reply from the cache needs none."""
    tokens: int
    """Tokens read and written, as the server counts them."""
    spent: str | None
    """The limit that left responses unjudged; None if no limit was reached."""


class LogprobRef(Frozen):
    """log pi(a_t | s_t) of `policy` for every response token of a rollout, and the entropy.

    Both are float32 columns [N] in nats.
    """

    id: str
    policy: PolicyRef
    rollouts: str
    """Identity of the RolloutRef it belongs to."""


class ValuesRef(Frozen):
    """A critic's value of the state in which each response token of a rollout was chosen.

    A float32 column [N]; the critic is stored with it.
    """

    id: str
    init: PolicyRef
    """The policy from whose weights the critic started."""
    rollouts: str
    """Identity of the RolloutRef on which the critic was fitted."""
    explained_variance: float | None
    """1 - Var(R - V) / Var(R) over the response tokens; None if all outcomes are equal."""


class TrainingRef(Frozen):
    """A finished training run: its kept policies and, in the store, a record per step."""

    id: str
    trail: tuple[PolicyRef, ...]
    """Kept policies in the order of steps."""

    def at(self, step: int) -> PolicyRef:
        """The policy kept at `step`. Raises LookupError if that step was not kept."""
        for policy in self.trail:
            if policy.step == step:
                return policy
        raise LookupError(
            f"step {step} was not kept; kept steps are {[policy.step for policy in self.trail]}"
        )

    @property
    def last(self) -> PolicyRef:
        return self.trail[-1]


class Contestant(Frozen):
    """How a policy fared in a race."""

    name: str
    policy: PolicyRef
    samples: int
    """Samples per problem that it was given."""
    avg: float
    """Mean accuracy over them, 0 to 1."""
    kl_old: float | None = None
    """KL(policy || the iteration's start) on the first round's samples, nats per token; None if the
    race has no KL budget.
    """
    dropped: str | None = None
    """Why it left the race; None if it stayed to the end."""


class RaceRef(Frozen):
    """The result of a race of policies on the validation problems."""

    id: str
    winner: str
    """Name of the winner."""
    contestants: tuple[Contestant, ...]
    problems: int
    budget: int
    """Maximum samples per problem of one contestant."""
    full: int
    """Samples per problem that every contestant would get without a race."""
    kl_budget: float | None = None
    """Maximum KL to the iteration's start, nats per token."""

    @property
    def policy(self) -> PolicyRef:
        """The winner."""
        return next(each.policy for each in self.contestants if each.name == self.winner)

    @property
    def spent(self) -> int:
        """Samples per problem over all contestants."""
        return sum(each.samples for each in self.contestants)

    @property
    def saved(self) -> float:
        """Share of the samples of a full selection that were not needed."""
        return 1 - self.spent / (self.full * len(self.contestants))


class GainRef(Frozen):
    """Validation samples of a policy, drawn until its gain over the start was proven."""

    id: str
    rollouts: RolloutRef


class Score(Frozen):
    """AVG@K on one benchmark with a 95 % interval clustered by problem (Sec. 4.1)."""

    avg: float
    """Mean accuracy, 0 to 1."""
    k: int
    """Samples per problem."""
    problems: int
    """Number of problems."""
    ci95: tuple[float, float]


class EvalReport(Frozen):
    """The evaluation of a policy: the contract's REPORT.

    The KLs are k1 estimates on fresh samples of the policy itself.
    """

    policy: str
    """Identity of the policy."""
    scores: dict[str, Score]
    """Benchmark -> score."""
    kl_old: float
    """KL(policy || the iteration's start), nats per token."""
    kl_base: float
    """KL(policy || the campaign's base), nats per token."""
    entropy: float
    """Nats per token."""
    length: float
    """Response tokens per sample."""


class Decision(Frozen):
    """The strategy chosen after a teacher, with the reason (Sec. 4.4, Fig. 3)."""

    strategy: Literal["S1", "S2", "S3", "online", "none", "stop"]
    reason: str
    evidence: dict[str, Any] = Field(default_factory=dict)
    """Every number behind the decision."""
    alternatives: dict[str, str] = Field(default_factory=dict)
    """Every strategy not taken -> the reason."""
