"""How policies are sampled, and what they are measured on (Sec. 4.1)."""

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

LONGEST_NAME = 64
"""Characters of a benchmark's name: it heads columns, names files and is a part of MLflow's
metrics.
"""


class SamplingConfig(Config):
    """How a policy is sampled (Sec. 4.1: 16 samples, T 0.6, 32,768 tokens for the fixed batch; T
    0.6 and top-p 0.95 to evaluate).
    """

    samples: PositiveInt = 16
    temperature: PositiveFloat = 0.6
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: PositiveInt | None = None
    """Only the k most likely tokens, before top-p; all when absent. Sec. 4.1 leaves it at the
    model's own default (Qwen3: 20).
    """
    presence_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0
    """Taken from the logits of tokens that the response holds already, before the temperature
    (the card of Qwen3.5: 1.5).
    """
    max_new_tokens: PositiveInt = 32_768
    shard: PositiveInt = 64
    """Prompts per shard: what is durable at once, and sampled as one batch."""

    @model_serializer(mode="wrap")
    def _as_before_there_were_more(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `top_k` and `presence_penalty` where they do nothing, so that what was sampled
        before keeps its identity.
        """
        written: dict[str, Any] = write(self)
        return {
            key: value
            for key, value in written.items()
            if key not in ("top_k", "presence_penalty") or value
        }


class EvaluationConfig(Config):
    """Selection happens on `validation` only; `benchmarks` are for reporting (Sec. 4.1)."""

    validation: ProblemsConfig
    validation_sampling: SamplingConfig = Field(
        default_factory=lambda: SamplingConfig(samples=32, top_p=0.95, max_new_tokens=81_920)
    )
    benchmarks: dict[str, ProblemsConfig]
    sampling: SamplingConfig = Field(
        default_factory=lambda: SamplingConfig(samples=32, top_p=0.95, max_new_tokens=81_920)
    )
    samples: dict[str, PositiveInt] = Field(default_factory=dict)
    """Samples per problem of single benchmarks, instead of `sampling.samples` (Sec. 4.1:
    BeyondAIME 16, IMO AnswerBench 4).
    """
    signal: bool = False
    """Score the student on the fixed batch too, and keep how far it followed its teacher, token
    by token (Fig. 7, Fig. 10).
    """

    judge: JudgeConfig | None = None
    """An LLM judge for benchmark answers that rules do not call correct (Sec. 4.1 uses one for
    Qwen3.5). Validation, where selection happens, is by rules alone.
    """

    @field_validator("validation", "benchmarks")
    @classmethod
    def _no_overlap(
        cls, given: ProblemsConfig | dict[str, ProblemsConfig]
    ) -> ProblemsConfig | dict[str, ProblemsConfig]:
        if any(
            getattr(source, "overlap", None)
            for source in (given.values() if isinstance(given, dict) else [given])
        ):
            raise ValueError(
                "overlap belongs to prompts: it checks them against what stands here; move it there"
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
                    f"benchmarks: {name[:80]!r} must be {LONGEST_NAME} letters, digits, - and _ "
                    f"at most, and not 'validation'"
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
