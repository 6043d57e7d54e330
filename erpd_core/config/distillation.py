"""Stage 2: signals and the students distilled from them (Sec. 3.2, 3.3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from erpd_core.config.common import Config, Strategy
from erpd_core.config.losses import Distill
from erpd_core.config.optimizer import OptimizerConfig

SIDE = r"^(student:\d+|[a-z][a-z0-9_]*(@\d+)?)$"
Side = Annotated[str, Field(pattern=SIDE)]
PLAIN_SIDES = ("old", "base", "none", "unlearned")
"""Sides that take no step; every other is `student:N`, `live`, or a training run."""


class SignalSpec(Config):
    """A token signal A_hat = lp_numerator - lp_denominator (Sec. 3.3, 3.4, Fig. 3). A strategy is
    this data, not code.

    A side is `teacher` (the step validation chose) or `teacher@40`, `weak` (last step of the
    unlearned run) or `weak@60`, `unlearned` (its `unlearn_step`), a run of the recipe's `runs`
    (`recovered`, `recovered@40`), `student:1` (student of iteration 1), `old` ("Curr." of Table 7),
    `base`, `none` ("None" of Table 7), or, as denominator, `live`: the student in training itself
    (Fig. 7).
    """

    numerator: Side = "teacher"
    denominator: Side = "old"
    positives: Literal["all", "max", "min"] = "all"
    """On right responses keep all of the log-ratio, max(0, .) or min(0, .); done before
    whitening (Table 12).
    """
    clip: PositiveFloat | None = None
    """The whitened signal is cut to this many standard deviations (with `whiten: off`, nats)
    against outliers; not in the paper.
    """
    whiten: Literal["shift", "scale", "off"] = "shift"
    """`shift`: mean 0 and variance 1 over response tokens (Sec. 3.3); `scale`: variance 1, signs
    kept; `off`: as is.
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
                "the student in training can only be set against a policy: use live as "
                "denominator of one"
            )
        return self


class Addend(Config):
    """One more signal of a weighted sum."""

    signal: SignalSpec
    weight: Annotated[float, Field(gt=0.0)] = 1.0


class DistillPhase(Config):
    """A stretch of distillation steps on one signal; several phases on one student are an
    ensemble (Table 8).
    """

    signal: SignalSpec = Field(default_factory=SignalSpec)
    plus: tuple[Addend, ...] = ()
    """Signals added to it, each whitened before it is weighted, and the sum whitened again
    (beyond the paper).
    """
    steps: PositiveInt | None = None
    """Optimizer steps; the distillation's own `steps` when absent."""

    @model_validator(mode="after")
    def _live_alone(self) -> DistillPhase:
        if self.plus and "live" in (
            self.signal.denominator,
            *(one.signal.denominator for one in self.plus),
        ):
            raise ValueError(
                "a live denominator changes at every step and cannot be added to other signals; "
                "make it a phase of its own"
            )
        return self

    @property
    def sides(self) -> tuple[str, ...]:
        """Every side of its signals."""
        signals = (self.signal, *(one.signal for one in self.plus))
        return tuple(side for signal in signals for side in (signal.numerator, signal.denominator))


Phases = Annotated[tuple[DistillPhase, ...], Field(min_length=1)]
Alternatives = Annotated[dict[str, Phases], Field(min_length=1)]


def _phases(**signal: str) -> tuple[DistillPhase, ...]:
    return (DistillPhase(signal=SignalSpec(**signal)),)


class DistillConfig(Config):
    """Stage 2: distil token signals into the iteration's start under a trust region (Sec. 3.2,
    3.3).
    """

    loss: Distill = Field(default_factory=Distill)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    minibatch: PositiveInt = 64
    steps: PositiveInt = 10
    """Optimizer steps per phase (Sec. 4.4: 10 when iterating; 16 or 32 otherwise)."""
    keep: tuple[PositiveInt, ...] = ()
    """Steps whose policy is kept, besides the last one."""
    select: Literal["last", "validation"] = "last"
    """The student is the last step, or the kept one with the highest validation score within the
    KL budget (the first if none is).
    """
    kl_budget: PositiveFloat | None = None
    """The trust region's radius (Eq. 7): KL(student || old), nats per token on fresh validation
    samples; for `select: validation`.
    """
    kl_budget_of_teacher: PositiveFloat | None = None
    """The same as a share of the teacher's own KL to old; the smaller of the two budgets holds."""
    kl_stop: PositiveFloat | None = None
    """Stop before `steps` once KL(old || student) on the old batch (k3, nats per token, of the
    step's minibatch) has reached this.
    """
    S1: Phases | Alternatives = Field(
        default_factory=lambda: _phases(numerator="teacher", denominator="old")
    )
    """Phases on one student; or named alternatives, each distilled, of which validation chooses
    one (Table 8, Sec. 4.5).
    """
    S2: Phases | Alternatives = Field(
        default_factory=lambda: _phases(numerator="weak", denominator="unlearned", positives="min")
    )
    S3: Phases | Alternatives = Field(
        default_factory=lambda: _phases(numerator="teacher", denominator="student:1")
    )
    """For strategy 3 the decision replaces `student:1` by the earlier student it chose."""

    @model_validator(mode="after")
    def _keep_within_steps(self) -> DistillConfig:
        last = max(self.total_steps("S1"), self.total_steps("S2"), self.total_steps("S3"))
        if self.keep and max(self.keep) > last:
            raise ValueError(
                f"keep: step {max(self.keep)} lies beyond the last step {last}; lower it or raise "
                f"steps"
            )
        return self

    @model_validator(mode="after")
    def _budget_has_a_choice(self) -> DistillConfig:
        if (self.kl_budget or self.kl_budget_of_teacher) and self.select == "last":
            raise ValueError(
                "a KL budget chooses among kept steps, and select: last takes the last; set "
                "select: validation, or no budget"
            )
        return self

    def alternatives(self, strategy: Strategy) -> dict[str, tuple[DistillPhase, ...]]:
        """What a strategy distils: alternatives by name; a single one has the name ""."""
        found = {"S1": self.S1, "S2": self.S2, "S3": self.S3}[strategy]
        return found if isinstance(found, dict) else {"": found}

    def total_steps(self, strategy: Strategy) -> int:
        """Steps of the longest alternative."""
        return max(
            sum(phase.steps or self.steps for phase in phases)
            for phases in self.alternatives(strategy).values()
        )

    def sides(self, strategy: Strategy) -> tuple[str, ...]:
        """Every side of every signal of a strategy, in order."""
        return tuple(
            side
            for phases in self.alternatives(strategy).values()
            for phase in phases
            for side in phase.sides
        )
