"""One run is one frozen, printable value: `CampaignConfig`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from erpd_core.config.common import Config, NonNegative, Strategy
from erpd_core.config.distillation import DistillConfig
from erpd_core.config.models import ModelConfig
from erpd_core.config.problems import ProblemsConfig
from erpd_core.config.runtime import RuntimeConfig
from erpd_core.config.sampling import EvaluationConfig, SamplingConfig
from erpd_core.config.training import TrainConfig, WeakTeacherConfig


class DecisionConfig(Config):
    """Which signal follows a teacher (Sec. 4.4): automatic from validation, or fixed per iteration."""

    mode: Literal["auto", "fixed"] = "auto"
    fixed: Annotated[tuple[Strategy, ...], Field(min_length=1)] = ("S1",)
    """Strategy of iteration 1, 2, ...; the last one repeats."""
    allowed: tuple[Strategy, ...] = ("S1", "S2", "S3")
    """What the automatic decision may choose from; S2 also needs `weak_teacher`."""
    min_gain: float = 0.0
    """Points (of 1) the validation gain must exceed before it counts."""
    z: NonNegative = 1.64
    """Standard errors of the paired difference that separate a gain from noise (1.64: one-sided 95 %)."""

    def fixed_for(self, iteration: int) -> Strategy:
        """What `fixed` says for iteration 1, 2, ..."""
        return self.fixed[min(iteration, len(self.fixed)) - 1]


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
    distill: DistillConfig = Field(default_factory=DistillConfig)
    evaluation: EvaluationConfig
    decision: DecisionConfig = Field(default_factory=DecisionConfig)
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)

    @model_validator(mode="after")
    def _sides_exist(self) -> CampaignConfig:
        if self.decision.mode == "fixed":
            fixed = [self.decision.fixed_for(index) for index in range(1, self.iterations + 1)]
            if "S2" in fixed and self.weak_teacher is None:
                raise ValueError("decision.fixed asks for S2, which needs weak_teacher; add that section")
            if "S3" in fixed[:2]:
                raise ValueError("decision.fixed asks for S3 before iteration 3, where no student is earlier than the start; move it back")
        trails = {"teacher": self.teacher.trail, "weak": self.weak_teacher.trail if self.weak_teacher else None}
        for strategy in ("S1", "S2", "S3"):
            for phase in self.distill.phases(strategy):
                for side in (phase.signal.numerator, phase.signal.denominator):
                    run, _, step = side.partition("@")
                    trail = trails.get(run)
                    if run in ("weak", "unlearned") and self.weak_teacher is None and strategy != "S2":
                        raise ValueError(f"distill.{strategy}: {side!r} needs weak_teacher; add that section")
                    if step and trail is not None and int(step) not in trail:
                        raise ValueError(f"distill.{strategy}: {side!r} is not kept; add step {step} to keep of that run (kept: {trail})")
        return self

    def question(self) -> dict[str, object]:
        """What was asked, without the machine it is asked on: the part of a config that identities are made of."""
        return self.model_dump(mode="json", exclude={"runtime", "description"})
