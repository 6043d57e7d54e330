"""Configs of stage 2: signals and the distillation of students (Sec. 3.2, 3.3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from erpd_core.config.common import Config, Strategy
from erpd_core.config.losses import Distill
from erpd_core.config.optimizer import OptimizerConfig

SIDE = r"^(student:\d+|[a-z][a-z0-9_]*(@\d+)?)$"
Side = Annotated[str, Field(pattern=SIDE)]
PLAIN_SIDES = ("old", "base", "none", "unlearned")
"""Sides that take no step. Any other side is `student:N`, `live`, or a training run."""


class SignalSpec(Config):
    """A token signal A_hat = lp_numerator - lp_denominator (Sec. 3.3, 3.4, Fig. 3).

    The signal has one value per response token of the fixed batch. It is computed in four steps:
    the log-ratio of two policies in nats, a mask on right responses (`positives`), whitening over
    all response tokens (`whiten`), and an optional clip (`clip`). A strategy is such data, not
    code.

    A side is one of these policies:

    - `teacher`: the strong teacher at the step that validation chose; `teacher@40`: at step 40.
    - `weak`: the last step of the unlearned run; `weak@60`: its step 60; `unlearned`: its
      `unlearn_step`.
    - A name in the recipe's `runs`: `recovered` (last step), `recovered@40`.
    - `student:1`: the student of iteration 1.
    - `old`: the start of the iteration ("Curr." of Table 7); `base`: the campaign's base model.
    - `none`: no policy; counts as log-prob 0 ("None" of Table 7).
    - `live`, only as denominator: the student in training itself (Fig. 7).

    **Raises:** ValidationError (a ValueError) if both sides are the same, if `live` is not a
        denominator with a policy as numerator, or if a side has another form. That a side exists is
        checked by `CampaignConfig`.

    **Example:** strategy 2, `SignalSpec(numerator="weak", denominator="unlearned",
    positives="min")`, on two tokens of a right and one of a wrong response.

        numerator    [-1.0, -3.0, -0.5]  log-probs under the last step of the unlearned run
        denominator  [-2.0, -2.0, -1.5]  log-probs under its `unlearn_step`
        log-ratio    [ 1.0, -1.0,  1.0]
        masked       [ 0.0, -1.0,  1.0]  min(0, .) on the right response only
        whitened     [ 0.0, -1.22, 1.22]  mean 0, variance 1
    """

    numerator: Side = "teacher"
    """The policy whose tokens are raised: `teacher`, `teacher@40`, `weak`, `unlearned`, a name in
    `runs`, `student:1`, `old`, `base` or `none`.
    """
    denominator: Side = "old"
    """The policy it is compared with: a side as for the numerator, or `live`, the student in
    training.
    """
    positives: Literal["all", "max", "min"] = "all"
    """The part of the log-ratio kept on right responses: all of it, max(0, .) or min(0, .). It is
    applied before whitening (Table 12).
    """
    clip: PositiveFloat | None = None
    """Limit of the whitened signal in standard deviations (in nats with `whiten: off`), against
    outliers; not in the paper.
    """
    whiten: Literal["shift", "scale", "off"] = "shift"
    """`shift`: mean 0 and variance 1 over response tokens (Sec. 3.3). `scale`: variance 1, signs
    kept. `off`: unchanged.
    """

    @model_validator(mode="after")
    def _something_to_distil(self) -> SignalSpec:
        if self.numerator == self.denominator:
            raise ValueError(
                f"numerator and denominator are both {self.numerator!r}: the signal would be "
                f"zero; change one of them"
            )
        if self.numerator == "live" or (self.denominator == "live" and self.numerator == "none"):
            raise ValueError(
                "the student in training can only be compared against a policy: use live as the "
                "denominator of one"
            )
        return self


class Addend(Config):
    """Another signal of a weighted sum."""

    signal: SignalSpec
    """The signal that is added."""
    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """Its weight; the first signal of the phase has weight 1."""


class DistillPhase(Config):
    """Consecutive distillation steps on one signal.

    Several phases on one student are an ensemble (Table 8).
    """

    signal: SignalSpec = Field(default_factory=SignalSpec)
    """The token signal: the log-ratio of two policies."""
    plus: tuple[Addend, ...] = ()
    """Signals added to it. Each is whitened and weighted, and the sum is whitened again (beyond the
    paper).
    """
    steps: PositiveInt | None = None
    """Optimizer steps of this phase; if not set, `steps` of the distillation."""

    @model_validator(mode="after")
    def _live_alone(self) -> DistillPhase:
        if self.plus and "live" in (
            self.signal.denominator,
            *(addend.signal.denominator for addend in self.plus),
        ):
            raise ValueError(
                "a live denominator changes at every step and cannot be added to other signals; "
                "make it a phase of its own"
            )
        return self

    @property
    def sides(self) -> tuple[str, ...]:
        """All sides of its signals, in order."""
        signals = (self.signal, *(addend.signal for addend in self.plus))
        return tuple(side for signal in signals for side in (signal.numerator, signal.denominator))


Phases = Annotated[tuple[DistillPhase, ...], Field(min_length=1)]
Alternatives = Annotated[dict[str, Phases], Field(min_length=1)]


def _phases(**signal: str) -> tuple[DistillPhase, ...]:
    return (DistillPhase(signal=SignalSpec(**signal)),)


class DistillConfig(Config):
    """Stage 2: distil token signals into the iteration's start policy (Sec. 3.2, 3.3).

    The student stays in a trust region around that policy.
    """

    loss: Distill = Field(default_factory=Distill)
    """The clipped surrogate (Eq. 9)."""
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    """Optimizer of the student."""
    minibatch: PositiveInt = 64
    """Trajectories per optimizer step."""
    steps: PositiveInt = 10
    """Optimizer steps per phase (Sec. 4.4: 10 when iterating; 16 or 32 otherwise)."""
    keep: tuple[PositiveInt, ...] = ()
    """Steps whose policy is kept, in addition to the last step."""
    select: Literal["last", "validation"] = "last"
    """The student: the last step, or the kept step with the highest validation score within the KL
    budget (the first kept step if none is within it).
    """
    kl_budget: PositiveFloat | None = None
    """Radius of the trust region (Eq. 7): KL(student || old) in nats per token, on fresh validation
    samples of the student. It needs `select: validation`.
    """
    kl_budget_of_teacher: PositiveFloat | None = None
    """The same budget as a share of the teacher's own KL to old. If both budgets are set, the
    smaller one holds.
    """
    kl_stop: PositiveFloat | None = None
    """Stop early when KL(old || student) reaches this value: k3 in nats per token, on the minibatch
    of the step, sampled by old.
    """
    S1: Phases | Alternatives = Field(
        default_factory=lambda: _phases(numerator="teacher", denominator="old")
    )
    """Strategy 1: phases on one student. Or named alternatives: each is distilled, and validation
    chooses one (Table 8, Sec. 4.5).
    """
    S2: Phases | Alternatives = Field(
        default_factory=lambda: _phases(numerator="weak", denominator="unlearned", positives="min")
    )
    """Strategy 2, in the same form."""
    S3: Phases | Alternatives = Field(
        default_factory=lambda: _phases(numerator="teacher", denominator="student:1")
    )
    """Strategy 3, in the same form. The decision replaces `student:1` by the earlier student that
    it chose.
    """

    @model_validator(mode="after")
    def _keep_within_steps(self) -> DistillConfig:
        last = max(self.total_steps("S1"), self.total_steps("S2"), self.total_steps("S3"))
        if self.keep and max(self.keep) > last:
            raise ValueError(
                f"keep: step {max(self.keep)} is beyond the last step {last}; lower it or raise "
                f"steps"
            )
        return self

    @model_validator(mode="after")
    def _budget_has_a_choice(self) -> DistillConfig:
        if (self.kl_budget or self.kl_budget_of_teacher) and self.select == "last":
            raise ValueError(
                "a KL budget chooses among kept steps, but select: last always takes the last; "
                "set select: validation, or remove the budget"
            )
        return self

    def alternatives(self, strategy: Strategy) -> dict[str, tuple[DistillPhase, ...]]:
        """The alternatives of a strategy by name; a single one has the name ""."""
        phases = {"S1": self.S1, "S2": self.S2, "S3": self.S3}[strategy]
        return phases if isinstance(phases, dict) else {"": phases}

    def total_steps(self, strategy: Strategy) -> int:
        """Optimizer steps of the longest alternative."""
        return max(
            sum(phase.steps or self.steps for phase in phases)
            for phases in self.alternatives(strategy).values()
        )

    def sides(self, strategy: Strategy) -> tuple[str, ...]:
        """All sides of all signals of a strategy, in order."""
        return tuple(
            side
            for phases in self.alternatives(strategy).values()
            for phase in phases
            for side in phase.sides
        )
