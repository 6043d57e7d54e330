"""`CampaignConfig`, the config of a whole run, and `DecisionConfig`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from erpd_core.config.common import Choice, Config, NonNegative, Strategy
from erpd_core.config.distillation import PLAIN_SIDES, DistillConfig
from erpd_core.config.models import ModelConfig
from erpd_core.config.online import OnlineConfig
from erpd_core.config.problems import ProblemsConfig
from erpd_core.config.runtime import RuntimeConfig
from erpd_core.config.sampling import EvaluationConfig, SamplingConfig
from erpd_core.config.selection import FullSelection
from erpd_core.config.training import RunConfig, TrainConfig, WeakTeacherConfig

Fallback = Literal["S2", "S3", "online"]


def _at_most() -> dict[Fallback, int]:
    return {"S2": 2, "S3": 1, "online": 1}


class DecisionConfig(Config):
    """How the signal that follows a teacher is chosen (Sec. 4.4).

    Automatically from validation scores, fixed per iteration, or by a user.
    """

    mode: Literal["auto", "fixed", "ask"] = "auto"
    """`auto` decides from validation scores. `fixed` follows the list in `fixed`. `ask` shows you
    the evidence and the automatic decision and waits for your choice; after
    `runtime.answer_seconds` the automatic decision is taken.
    """
    fixed: Annotated[tuple[Choice, ...], Field(min_length=1)] = ("S1",)
    """What iterations 1, 2, ... do; the last entry repeats. `none` takes the teacher as the
    student: the control arms of Table 2.
    """
    teacher: Literal["needed", "always"] = "needed"
    """`always` trains and reports the strong teacher even if a fixed strategy does not use it
    (Table 2, batches 5 and 6).
    """
    allowed: tuple[Literal["S1", "S2", "S3", "online"], ...] = ("S1", "S2", "S3", "online")
    """Choices of the automatic decision. S2 also needs the section `weak_teacher`, online the
    section `online`.
    """
    min_gain: float = 0.0
    """Gain in validation accuracy (0 to 1) that must be exceeded to count."""
    z: NonNegative = 1.64
    """Number of standard errors of the paired difference that separates a gain from noise (1.64:
    one-sided 95 %).
    """
    at_most: dict[Fallback, PositiveInt] = Field(default_factory=_at_most)
    """How often the automatic decision may take each fallback since a teacher or an online stage
    last helped (Table 2: S3, then S2 twice).
    """

    def fixed_for(self, iteration: int) -> Choice | None:
        """The choice that the recipe fixes for iteration 1, 2, ...; None if it is decided later."""
        return self.fixed[min(iteration, len(self.fixed)) - 1] if self.mode == "fixed" else None


class CampaignConfig(Config):
    """A campaign: iterations of batch, teacher, signal, student (Sec. 3, 4.4).

    Each iteration samples a fixed batch from its start policy, trains teachers on it (stage 1),
    chooses a token signal, and distils it into a student (stage 2), from which the next iteration
    starts. A config is frozen and complete: `erpd show RECIPE` prints it. Its fields are the
    sections of a recipe; defaults are the paper's. `spec()` is the part that identities are made
    of.

    **Raises:** ValidationError (a ValueError) for an unknown key, a value out of range, or sections
        that do not fit together: a fixed strategy without the section it needs, S3 before iteration
        3, a side of a signal or an `init` that names an unknown run or a step that is not kept, or
        runs that start from each other.

    **Example:** the smallest campaign, 16 samples of each of 256 prompts of the embedded tiny
    world.

        config = CampaignConfig(
            name="demo",
            model=EmbeddedModel(),
            prompts=TinyProblems(),
            evaluation=EvaluationConfig(
                validation=TinyProblems(split="validation"),
                benchmarks={"test": TinyProblems(split="test")},
            ),
        )
        config.teacher.loss.kind  # "sapo"
        config.distill.sides("S1")  # ("teacher", "old")
        config.decision.fixed_for(1)  # None: decided from validation scores
        "runtime" in config.spec()  # False
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,60}$")]
    """Name of the campaign: lowercase letters, digits, `-` and `_`, at most 61 characters."""
    description: str = ""
    """One line about the campaign. It is not part of its identity."""
    seed: int = 0
    """Seed of all random choices without a seed of their own. Another seed is another campaign."""
    iterations: PositiveInt = 1
    """Number of iterations. A larger number extends a campaign that has already run."""
    model: ModelConfig
    """The base model, from which the first iteration starts."""
    prompts: ProblemsConfig
    """Training prompts; every iteration draws again (Sec. 4.1: 1,000)."""
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    """Sampling of the fixed batch of an iteration."""
    teacher: TrainConfig = Field(default_factory=TrainConfig)
    """Training of the strong teacher (stage 1)."""
    weak_teacher: WeakTeacherConfig | None = None
    """Training of the unlearned teacher of strategy 2; without this section there is none."""
    runs: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], RunConfig] = Field(
        default_factory=dict
    )
    """Further training runs by name, as sides of signals. Each is trained when a signal first uses
    it.
    """
    online: OnlineConfig | None = None
    """The on-policy stage (Fig. 8), for iterations that are `online`."""
    distill: DistillConfig = Field(default_factory=DistillConfig)
    """Distillation of a signal into a student (stage 2)."""
    evaluation: EvaluationConfig
    """Validation problems, on which choices are based, and benchmarks, which are only reported."""
    decision: DecisionConfig = Field(default_factory=DecisionConfig)
    """How the signal of an iteration is chosen."""
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)
    """The machine and how it is used. It is not part of the identity."""

    @model_validator(mode="after")
    def _schedule_is_possible(self) -> CampaignConfig:
        fixed = [self.decision.fixed_for(index) for index in range(1, self.iterations + 1)]
        if "S2" in fixed and self.weak_teacher is None and not self.runs:
            raise ValueError(
                "decision.fixed contains S2, which needs weak_teacher; add that section"
            )
        if "S3" in fixed[:2]:
            raise ValueError(
                "decision.fixed contains S3 before iteration 3, when no student is earlier than "
                "the start; move it to a later iteration"
            )
        if "online" in fixed and self.online is None:
            raise ValueError(
                "decision.fixed contains an online stage, which needs online; add that section"
            )
        return self

    @model_validator(mode="after")
    def _sides_exist(self) -> CampaignConfig:
        if clash := {"teacher", "weak", "live", *PLAIN_SIDES} & self.runs.keys():
            raise ValueError(
                f"runs: {', '.join(sorted(clash))} already means something else in a signal; "
                f"choose another name"
            )
        strategies: tuple[Strategy, ...] = ("S1", "S2", "S3")
        places = {f"distill.{strategy}": self.distill.sides(strategy) for strategy in strategies}
        places |= {f"runs.{name}.init": (run.init,) for name, run in self.runs.items()}
        for place, sides in places.items():
            for side in sides:
                # the default S2 is in every recipe, even without an unlearned teacher
                if not (
                    place == "distill.S2"
                    and self.weak_teacher is None
                    and side in ("weak", "unlearned")
                ):
                    self._check_side(place, side)
        self._check_inits()
        return self

    def _check_side(self, place: str, side: str) -> None:
        run, _, step = side.partition("@")
        if run.startswith("student:") or (run in ("old", "base", "none", "live") and not step):
            return
        if run in ("weak", "unlearned"):
            if self.weak_teacher is None:
                raise ValueError(f"{place}: {side!r} needs weak_teacher; add that section")
            trail = self.weak_teacher.trail
        elif run == "teacher":
            trail = self.teacher.trail
        elif run in self.runs:
            trail = self.runs[run].trail
        else:
            known = ("teacher", "weak", *PLAIN_SIDES, "student:N", "live", *self.runs)
            raise ValueError(
                f"{place}: there is no run {side!r}; use one of {', '.join(known)}, or add it to "
                f"runs"
            )
        if step and (run == "unlearned" or int(step) not in trail):
            raise ValueError(
                f"{place}: {side!r} is not kept; add step {step} to keep of that run (kept: "
                f"{trail})"
            )

    def _check_inits(self) -> None:
        """Refuse runs that start from each other in a circle."""
        for name in self.runs:
            seen, here = [name], self.runs[name].init.partition("@")[0]
            while here in self.runs:
                if here in seen:
                    raise ValueError(
                        f"runs: {' from '.join([*seen, here])} is a circle; let one of them start "
                        f"from old"
                    )
                seen.append(here)
                here = self.runs[here].init.partition("@")[0]

    def spec(self) -> dict[str, Any]:
        """The part that identities are made of: everything but `runtime` and `description`.

        It omits a full selection, so that campaigns from before there were races keep their
        identity.
        """
        spec: dict[str, Any] = self.model_dump(mode="json", exclude={"runtime", "description"})
        if isinstance(self.evaluation.selection, FullSelection):
            del spec["evaluation"]["selection"]
        return spec
