"""Where problems come from, how they are drawn, and how they are worded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from erpd_core.config.common import Config, NonNegative
from erpd_core.refs import Extractor

Reader = Literal["plain", "livecodebench", "unit_tests"]
"""What a row holds: a problem and an answer; a row of LiveCodeBench; a prompt and JSON of unit
tests (inputs, outputs, fn_name).
"""

TEMPLATES = {
    "plain": "{problem}",
    "polaris": "{problem} Let's think step by step and output the final answer within \\boxed{}.",
    "matharena": "Put your final answer within \\boxed{}.\n\n{problem}",
    "matharena_aime": "Put your final answer within \\boxed{}.\nThe answer is an integer between 0 "
    "and 999 "
    "inclusive.\n\n{problem}",
}
"""Known wordings by name, for `template`: those of the tools the paper evaluates with (Sec.
4.1).
"""


def worded(template: str) -> str:
    """The wording that `template` names, or itself. Raises ValueError for one without a place
    for the problem.
    """
    template = TEMPLATES.get(template, template)
    if "{problem}" not in template:
        raise ValueError(
            f"template must contain {{problem}}, the place where the problem goes, or be one of "
            f"{', '.join(TEMPLATES)}"
        )
    return template


class DifficultyConfig(Config):
    """Which problems may be drawn, by a column that says how hard they are. A fraction such as
    "3/8" counts as its value.

    Example: `DifficultyConfig(low=0.125, high=0.75)`, or `DifficultyConfig(weights={"1/8": 3,
    "2/8": 1})`.
    """

    column: str = "difficulty"
    low: float | None = None
    """The smallest value taken."""
    high: float | None = None
    """The largest value taken."""
    weights: dict[str, NonNegative] = Field(default_factory=dict)
    """Value, as it is written in the column -> how often such a problem is drawn relative to
    others; a value not named is never drawn.
    """

    @model_validator(mode="after")
    def _says_something(self) -> DifficultyConfig:
        if self.low is None and self.high is None and not any(self.weights.values()):
            raise ValueError("difficulty needs low, high, or weights of which one is above 0")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low ({self.low}) must not be above high ({self.high})")
        return self


class OverlapConfig(Config):
    """The check of training prompts against the campaign's validation problems and benchmarks."""

    action: Literal["report", "drop", "refuse"] = "report"
    """Only say it; draw from what does not overlap; or stop when a drawn prompt overlaps."""
    ngram: PositiveInt = 13
    """Words in a row that count as shared text."""
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Part of the shorter problem's n-grams that must stand in the other for the two to overlap."""


class _Draw(Config):
    count: PositiveInt | None = None
    """How many problems to draw; all of them when absent."""
    seed: int | None = None
    """Seed of the draw; the campaign's (and the iteration's, for training prompts) when absent.
    A seed here draws the same every time.
    """


class _Problems(_Draw):
    template: str = "{problem}"
    """Prompt wording; `{problem}` is replaced by the problem. The name of a known wording stands
    for it.
    """
    extractor: Extractor = "auto"
    """Where the answer stands in a response: a box or a final line, a box only, after the last
    '#'; or whose rule grades instead.
    """

    @field_validator("template")
    @classmethod
    def _has_problem(cls, template: str) -> str:
        return worded(template)


class _Choice(Config):
    """What only problems taken from a fixed pool have."""

    difficulty: DifficultyConfig | None = None
    overlap: OverlapConfig | None = None
    """For training prompts only."""


class TinyProblems(_Problems):
    """Additions of the embedded world: disjoint train, validation and test splits."""

    kind: Literal["tiny"] = "tiny"
    split: Literal["train", "validation", "test"] = "train"
    count: PositiveInt | None = 256
    extractor: Extractor = "hash"


class FileProblems(_Problems, _Choice):
    """A local JSONL, JSON, CSV or Parquet file, or a directory of such files."""

    kind: Literal["file"] = "file"
    path: str
    problem_column: str = "problem"
    answer_column: str = "answer"
    reader: Reader = "plain"


class HubProblems(_Problems, _Choice):
    """A data set of the Hugging Face hub (columns as published), read as files: nothing of it is
    ever executed.
    """

    kind: Literal["hub"] = "hub"
    id: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: str | None = None
    """A commit, tag or branch. When absent, the commit that main had at the first download; it
    is remembered and asked for ever after.
    """
    split: str = "train"
    files: tuple[str, ...] = ()
    """Patterns of the files to read, in order, `{split}` replaced; when absent, the data files
    that carry the split in their name.
    """
    problem_column: str = "problem"
    answer_column: str = "answer"
    reader: Reader = "plain"


class GymProblems(_Problems):
    """A reasoning-gym family: generated, verifiable, offline. A question belongs to one split by
    a hash of its text.
    """

    kind: Literal["gym"] = "gym"
    family: str
    split: Literal["train", "validation", "test"] = "train"
    params: dict[str, int | float | str | bool | list[str]] = Field(default_factory=dict)
    count: PositiveInt | None = 256


class NamedProblems(_Draw, _Choice):
    """A set of the catalogue (`erpd benchmarks`) by its name. What is given here wins over what
    the catalogue says.
    """

    kind: Literal["named"] = "named"
    name: str
    path: str | None = None
    """A local copy to read instead of the hub: a file, or a directory of files."""
    revision: str | None = None
    split: str | None = None
    template: str | None = None
    extractor: Extractor | None = None
    problem_column: str | None = None
    answer_column: str | None = None

    @field_validator("template")
    @classmethod
    def _has_problem(cls, template: str | None) -> str | None:
        return None if template is None else worded(template)


ProblemsConfig = Annotated[
    TinyProblems | FileProblems | HubProblems | GymProblems | NamedProblems,
    Field(discriminator="kind"),
]
