"""Where problems come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator

from erpd_core.config.common import Config


class _Problems(Config):
    count: PositiveInt | None = None
    """How many problems to draw; all of them when absent."""
    seed: int | None = None
    """Seed of the draw; the campaign's (and the iteration's, for training prompts) when absent."""
    template: str = "{problem}"
    """Prompt wording; `{problem}` is replaced by the problem."""
    extractor: Literal["auto", "boxed", "hash", "code"] = "auto"
    """Where the answer stands in a response: a box or a final line, a box only, or after the last '#'."""

    @field_validator("template")
    @classmethod
    def _has_problem(cls, template: str) -> str:
        if "{problem}" not in template:
            raise ValueError("template must contain {problem}, the place where the problem goes")
        return template


class TinyProblems(_Problems):
    """Additions of the embedded world: disjoint train, validation and test splits."""

    kind: Literal["tiny"] = "tiny"
    split: Literal["train", "validation", "test"] = "train"
    count: PositiveInt | None = 256
    extractor: Literal["auto", "boxed", "hash", "code"] = "hash"


class FileProblems(_Problems):
    """A local JSONL, CSV or Parquet file."""

    kind: Literal["file"] = "file"
    path: str
    problem_column: str = "problem"
    answer_column: str = "answer"


class HubProblems(_Problems):
    """A data set of the Hugging Face hub (columns as published)."""

    kind: Literal["hub"] = "hub"
    id: str
    revision: str | None = None
    split: str = "train"
    problem_column: str = "problem"
    answer_column: str = "answer"


class GymProblems(_Problems):
    """A reasoning-gym family: generated, verifiable, offline. A question belongs to one split by a hash of its text."""

    kind: Literal["gym"] = "gym"
    family: str
    split: Literal["train", "validation", "test"] = "train"
    params: dict[str, int | float | str | bool | list[str]] = Field(default_factory=dict)
    count: PositiveInt | None = 256


ProblemsConfig = Annotated[TinyProblems | FileProblems | HubProblems | GymProblems, Field(discriminator="kind")]
