"""Configs of sampling and of evaluation (Sec. 4.1)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from erpd_core.config.common import Config
from erpd_core.config.judge import JudgeConfig
from erpd_core.config.problems import ProblemsConfig
from erpd_core.config.selection import RaceSelection, Selection

LONGEST_NAME = 64
"""Maximum characters of a benchmark's name, which is used in table headers, file names and MLflow
metrics.
"""


class SamplingConfig(Config):
    """How a policy is sampled.

    Sec. 4.1: 16 samples, temperature 0.6 and 32,768 tokens for the fixed batch; temperature 0.6 and
    top-p 0.95 for evaluation.
    """

    samples: PositiveInt = 16
    """Samples per prompt."""
    temperature: PositiveFloat = 0.6
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Probability mass of the most likely tokens that are sampled from; 1 is all of them."""
    top_k: PositiveInt | None = None
    """Number of most likely tokens that are sampled from, before top-p; if not set, all. Sec. 4.1
    leaves it at the model's own default (Qwen3: 20).
    """
    presence_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0
    """Subtracted from the logits of tokens that the response already contains, before the
    temperature (model card of Qwen3.5: 1.5).
    """
    max_new_tokens: PositiveInt = 32_768
    """Maximum tokens of a response; longer ones are cut."""
    shard: PositiveInt = 64
    """Prompts per shard. A shard is sampled as one batch and stored as a whole."""

    @model_serializer(mode="wrap")
    def _without_neutral_settings(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `top_k` and `presence_penalty` where they have no effect.

        Rollouts from before these settings existed thus keep their identity.
        """
        written: dict[str, Any] = write(self)
        return {
            key: value
            for key, value in written.items()
            if key not in ("top_k", "presence_penalty") or value
        }


class EvaluationConfig(Config):
    """Validation problems, for all selection, and benchmarks, for reporting only (Sec. 4.1)."""

    validation: ProblemsConfig
    """Problems on which teachers, students and strategies are selected."""
    validation_sampling: SamplingConfig = Field(
        default_factory=lambda: SamplingConfig(samples=32, top_p=0.95, max_new_tokens=81_920)
    )
    """Sampling of the validation problems."""
    benchmarks: dict[str, ProblemsConfig]
    """Benchmarks by name. They are only reported and never select anything."""
    sampling: SamplingConfig = Field(
        default_factory=lambda: SamplingConfig(samples=32, top_p=0.95, max_new_tokens=81_920)
    )
    """Sampling of the benchmarks."""
    samples: dict[str, PositiveInt] = Field(default_factory=dict)
    """Samples per problem of single benchmarks, instead of `sampling.samples` (Sec. 4.1: BeyondAIME
    16, IMO AnswerBench 4).
    """
    selection: Selection = Field(default_factory=RaceSelection, discriminator="kind")
    """How policies are selected on the validation problems."""
    signal: bool = False
    """Whether to score the student on the fixed batch too and record, token by token, how far it
    followed its teacher (Fig. 7, Fig. 10).
    """

    judge: JudgeConfig | None = None
    """An LLM judge for benchmark answers that the rules do not call correct (Sec. 4.1 uses one for
    Qwen3.5). Validation, on which everything is selected, uses the rules alone.
    """

    @field_validator("selection", mode="before")
    @classmethod
    def _a_race_unless_it_says_otherwise(cls, given: Any) -> Any:
        return {"kind": "race", **given} if isinstance(given, dict) else given

    @field_validator("validation", "benchmarks")
    @classmethod
    def _nothing_of_prompts(
        cls, given: ProblemsConfig | dict[str, ProblemsConfig]
    ) -> ProblemsConfig | dict[str, ProblemsConfig]:
        for source in given.values() if isinstance(given, dict) else [given]:
            if getattr(source, "overlap", None):
                raise ValueError(
                    "overlap belongs to prompts: it checks them against these problems; move it "
                    "there"
                )
            if source.informative:
                raise ValueError(
                    "informative belongs to prompts: every problem of an evaluation counts; move "
                    "it there"
                )
        return given

    @field_validator("benchmarks")
    @classmethod
    def _names(cls, benchmarks: dict[str, ProblemsConfig]) -> dict[str, ProblemsConfig]:
        if not benchmarks:
            raise ValueError("benchmarks: name at least one benchmark to report on")
        for name in benchmarks:
            if (
                name == "validation"
                or len(name) > LONGEST_NAME
                or not name.replace("-", "").replace("_", "").isalnum()
            ):
                raise ValueError(
                    f"benchmarks: {name[:80]!r} must be at most {LONGEST_NAME} letters, digits, - "
                    f"and _, and not 'validation'"
                )
        return benchmarks

    @model_validator(mode="after")
    def _samples_of_benchmarks(self) -> EvaluationConfig:
        if unknown := self.samples.keys() - self.benchmarks.keys():
            raise ValueError(
                f"samples: there is no benchmark {', '.join(sorted(unknown))} (there are "
                f"{', '.join(self.benchmarks)})"
            )
        return self
