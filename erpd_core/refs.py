"""Small, serialisable values that stages hand each other. They carry identities, never tensors and
never paths.

Identities (`id`) are content hashes made by the store (`tasks/store/store.py`): the same question
asked of the same inputs has the same id on every machine.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["base", "teacher", "unlearned", "extra", "student", "online"]
Verdict = Literal["correct", "wrong", "unparsable", "timeout"]
Mode = Literal["math_verify", "polaris", "matharena"]
"""Others' grading, which brings its own way to find the answer."""
Extractor = Literal["auto", "boxed", "hash", "code", Mode]
"""How a response is graded: where our own rule finds the answer (a box or a final line, a box only,
after the last '#'), the last block of code run on its tests, or another's rule whole.
"""


class Frozen(BaseModel):
    """Base of every value in this package: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(Frozen):
    """One verifiable problem.

    Example: `Problem(id="tiny-017", prompt="12+34+56=", answer="102")`
    """

    id: str
    prompt: str
    """The text given to the policy, or to its chat template when it has one."""
    answer: str
    """The gold answer, as the grader reads it; of a code problem, its unit tests: JSON of
    inputs, outputs and, for functions, fn_name.
    """


class PolicyRef(Frozen):
    """A policy: weights, config and tokenizer in one artifact of the store.

    Example: `PolicyRef(id="policy-5f1c...", role="teacher", step=40)`
    """

    id: str
    role: Role = "base"
    step: int = 0
    """Steps of the training that kept it: optimizer steps, or the fresh batches of an online
    stage.
    """


class Overlap(Frozen):
    """How many training prompts share their text with problems that are measured on."""

    action: Literal["report", "drop", "refuse"]
    checked: int
    """Prompts that were compared: the whole pool where overlapping ones are dropped, else those
    drawn.
    """
    exact: int
    """Of them, equal to such a problem but for spacing, case and dollar signs."""
    ngram: int
    """Of the others, those sharing enough word n-grams with one."""
    benchmarks: dict[str, int]
    """Overlapping prompts by the name of what they overlap with; names without any are there
    with 0.
    """


class ProblemsRef(Frozen):
    """A fixed, ordered list of problems in the store."""

    id: str
    name: str
    count: int
    extractor: Extractor = "auto"
    """Where the answer stands in a response to them."""
    origin: str | None = None
    """The hub's `id@commit`, for what came from there."""
    overlap: Overlap | None = None
    """What the check against validation and benchmarks found, for training prompts that were
    checked.
    """


class RolloutRef(Frozen):
    """Graded samples of one policy on one problem list: tokens, text, verdicts, in durable
    shards.
    """

    id: str
    policy: PolicyRef
    problems: ProblemsRef
    samples: int
    """Samples per problem (K of AVG@K)."""
    sequences: int
    tokens: int
    """Response tokens over all sequences: the length N of every column over this batch."""
    accuracy: float


class JudgedRef(Frozen):
    """What an LLM judge said of a rollout's responses that rules do not call correct. Verdicts
    of the rollout itself stay as they are.
    """

    id: str
    rollouts: str
    outcomes: dict[str, int]
    """What the judge said (`tasks.evaluation.judge.Outcome`) -> of how many responses; `same` is
    how many it turned to correct.
    """
    calls: int
    """Requests made; replies found in the cache made none."""
    tokens: int
    spent: str | None
    """The limit that left responses unjudged, None where none was."""


class LogprobRef(Frozen):
    """One float32 column over a rollout's response tokens: log pi(a_t | s_t) of `policy`, with
    its entropy beside it.
    """

    id: str
    policy: PolicyRef
    rollouts: str
    """Identity of the RolloutRef it belongs to."""


class ValuesRef(Frozen):
    """One float32 column over a rollout's response tokens: a critic's value of the state each
    was chosen in. The critic is beside it.
    """

    id: str
    init: PolicyRef
    """The policy whose weights the critic started from."""
    rollouts: str
    """Identity of the RolloutRef it was fitted to and belongs to."""
    explained_variance: float | None
    """1 - Var(R - V) / Var(R) over the batch's response tokens; None where all outcomes are
    equal.
    """


class TrainingRef(Frozen):
    """A finished training run: its kept policies in order of steps, and (in the store) a record
    per step.
    """

    id: str
    trail: tuple[PolicyRef, ...]

    def at(self, step: int) -> PolicyRef:
        """The policy kept at `step`. Raises LookupError naming the steps that were kept."""
        for policy in self.trail:
            if policy.step == step:
                return policy
        raise LookupError(
            f"step {step} was not kept; kept steps are {[policy.step for policy in self.trail]}"
        )

    @property
    def last(self) -> PolicyRef:
        return self.trail[-1]


class Score(Frozen):
    """AVG@K on one benchmark with a 95 % interval clustered by problem (Sec. 4.1)."""

    avg: float
    k: int
    problems: int
    ci95: tuple[float, float]


class EvalReport(Frozen):
    """What is known of a policy: the contract's REPORT.

    `kl_old` and `kl_base` are k1 estimates of KL(policy || ref) in nats per token on fresh samples
    of the policy itself, against the iteration's start and the campaign's base. `entropy` is nats
    per token, `length` response tokens per sample.
    """

    policy: str
    scores: dict[str, Score]
    kl_old: float
    kl_base: float
    entropy: float
    length: float


class Decision(Frozen):
    """Which strategy was chosen after a teacher, and why (Sec. 4.4, Fig. 3)."""

    strategy: Literal["S1", "S2", "S3", "online", "none", "stop"]
    reason: str
    evidence: dict[str, Any] = Field(default_factory=dict)
    alternatives: dict[str, str] = Field(default_factory=dict)
    """Every strategy not taken, with why not."""
