"""One run is one frozen, printable value: `CampaignConfig`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from erpd_core.config.common import Choice, Config, NonNegative, Strategy
from erpd_core.config.distillation import PLAIN_SIDES, DistillConfig
from erpd_core.config.models import ModelConfig
from erpd_core.config.online import OnlineConfig
from erpd_core.config.problems import ProblemsConfig
from erpd_core.config.runtime import RuntimeConfig
from erpd_core.config.sampling import EvaluationConfig, SamplingConfig
from erpd_core.config.training import RunConfig, TrainConfig, WeakTeacherConfig

Fallback = Literal["S2", "S3", "online"]


def _at_most() -> dict[Fallback, int]:
    return {"S2": 2, "S3": 1, "online": 1}


class DecisionConfig(Config):
    """Which signal follows a teacher (Sec. 4.4): automatic from validation, fixed per iteration,
    or asked of a person.
    """

    mode: Literal["auto", "fixed", "ask"] = "auto"
    """`ask` waits for a person, with the evidence and the automatic decision; that is taken when
    `runtime.answer_seconds` have passed.
    """
    fixed: Annotated[tuple[Choice, ...], Field(min_length=1)] = ("S1",)
    """What iteration 1, 2, ... does; the last one repeats. `none` makes the teacher the student:
    the control arms of Table 2.
    """
    teacher: Literal["needed", "always"] = "needed"
    """`always` trains and reports the strong teacher also where a fixed strategy does not look
    at it (Table 2, batches 5 and 6).
    """
    allowed: tuple[Literal["S1", "S2", "S3", "online"], ...] = ("S1", "S2", "S3", "online")
    """What the automatic decision may choose from; S2 also needs `weak_teacher`, online also
    `online`.
    """
    min_gain: float = 0.0
    """Points (of 1) the validation gain must exceed before it counts."""
    z: NonNegative = 1.64
    """Standard errors of the paired difference that separate a gain from noise (1.64: one-sided
    95 %).
    """
    at_most: dict[Fallback, PositiveInt] = Field(default_factory=_at_most)
    """How often the automatic decision takes a fallback since a teacher or an online stage last
    helped (Table 2: S3, then S2 twice).
    """

    def fixed_for(self, iteration: int) -> Choice | None:
        """What the recipe fixes for iteration 1, 2, ...; None when it is decided."""
        return self.fixed[min(iteration, len(self.fixed)) - 1] if self.mode == "fixed" else None


class CampaignConfig(Config):
    """A campaign: iterations of batch, teacher, signal, student (Sec. 3, 4.4)."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,60}$")]
    description: str = ""
    seed: int = 0
    iterations: PositiveInt = 1
    model: ModelConfig
    prompts: ProblemsConfig
    """Training prompts; a fresh draw for each iteration (Sec. 4.1: 1,000)."""
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    teacher: TrainConfig = Field(default_factory=TrainConfig)
    weak_teacher: WeakTeacherConfig | None = None
    runs: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], RunConfig] = Field(
        default_factory=dict
    )
    """More training runs by name, for signals to name; each is trained when a signal first asks
    for it.
    """
    online: OnlineConfig | None = None
    """The on-policy stage (Fig. 8), for iterations that are `online`."""
    distill: DistillConfig = Field(default_factory=DistillConfig)
    evaluation: EvaluationConfig
    decision: DecisionConfig = Field(default_factory=DecisionConfig)
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)

    @model_validator(mode="after")
    def _schedule_is_possible(self) -> CampaignConfig:
        fixed = [self.decision.fixed_for(index) for index in range(1, self.iterations + 1)]
        if "S2" in fixed and self.weak_teacher is None and not self.runs:
            raise ValueError(
                "decision.fixed asks for S2, which needs weak_teacher; add that section"
            )
        if "S3" in fixed[:2]:
            raise ValueError(
                "decision.fixed asks for S3 before iteration 3, where no student is earlier than "
                "the start; move it back"
            )
        if "online" in fixed and self.online is None:
            raise ValueError(
                "decision.fixed asks for an online stage, which needs online; add that section"
            )
        return self

    @model_validator(mode="after")
    def _sides_exist(self) -> CampaignConfig:
        if clash := {"teacher", "weak", "live", *PLAIN_SIDES} & self.runs.keys():
            raise ValueError(
                f"runs: {', '.join(sorted(clash))} already means something in a signal; choose "
                f"another name"
            )
        strategies: tuple[Strategy, ...] = ("S1", "S2", "S3")
        places = {f"distill.{strategy}": self.distill.sides(strategy) for strategy in strategies}
        places |= {f"runs.{name}.init": (run.init,) for name, run in self.runs.items()}
        for place, sides in places.items():
            for side in sides:
                # the default S2 stands in every recipe, also in those without an unlearned teacher
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
        """Runs may start from runs, but not in a circle."""
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

    def spec(self) -> dict[str, object]:
        """What was asked, without the machine it is asked on: the part of a config that
        identities are made of.
        """
        return self.model_dump(mode="json", exclude={"runtime", "description"})
