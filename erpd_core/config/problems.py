"""Configs of problems: their source, how they are drawn, and the wording of prompts."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from erpd_core.config.common import Config, NonNegative
from erpd_core.refs import Extractor

Reader = Literal["plain", "livecodebench", "unit_tests"]
"""Format of a row. `plain`: a problem and an answer. `livecodebench`: a row of LiveCodeBench.
`unit_tests`: a prompt and JSON of unit tests (inputs, outputs, fn_name).
"""

TEMPLATES = {
    "plain": "{problem}",
    "polaris": "{problem} Let's think step by step and output the final answer within \\boxed{}.",
    "matharena": "Put your final answer within \\boxed{}.\n\n{problem}",
    "matharena_aime": "Put your final answer within \\boxed{}.\nThe answer is an integer between 0 "
    "and 999 "
    "inclusive.\n\n{problem}",
}
"""Known wordings by name, for `template`: those of the paper's evaluation tools (Sec. 4.1)."""


def worded(template: str) -> str:
    """The wording that `template` names, or `template` itself.

    **Raises:** ValueError if it has no place for the problem.
    """
    template = TEMPLATES.get(template, template)
    if "{problem}" not in template:
        raise ValueError(
            f"template must contain {{problem}}, the place where the problem goes, or be one of "
            f"{', '.join(TEMPLATES)}"
        )
    return template


class DifficultyConfig(Config):
    """Selection of problems by a column that says how hard they are.

    A fraction such as "3/8" counts as its value.

    **Example:** `DifficultyConfig(low=0.125, high=0.75)`, or
    `DifficultyConfig(weights={"1/8": 3, "2/8": 1})`.
    """

    column: str = "difficulty"
    """Name of the column."""
    low: float | None = None
    """Smallest value that is drawn."""
    high: float | None = None
    """Largest value that is drawn."""
    weights: dict[str, NonNegative] = Field(default_factory=dict)
    """Value, as written in the column -> how often such a problem is drawn relative to others. A
    value that is not listed is never drawn.
    """

    @model_validator(mode="after")
    def _says_something(self) -> DifficultyConfig:
        if self.low is None and self.high is None and not any(self.weights.values()):
            raise ValueError("difficulty needs low, high, or at least one weight above 0")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low ({self.low}) must not be above high ({self.high})")
        return self


class OverlapConfig(Config):
    """Check of training prompts against the campaign's validation problems and benchmarks."""

    action: Literal["report", "drop", "refuse"] = "report"
    """`report` only reports overlaps. `drop` draws from prompts that do not overlap. `refuse` stops
    if a drawn prompt overlaps.
    """
    ngram: PositiveInt = 13
    """Number of consecutive words that count as shared text."""
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of the shorter problem's n-grams that must also be in the other problem for the two to
    overlap.
    """


class _Draw(Config):
    count: PositiveInt | None = None
    """Number of problems to draw; if not set, all of them."""
    seed: int | None = None
    """Seed of the draw. With a seed every draw is the same. If not set, it is the campaign's seed,
    for training prompts together with the iteration.
    """
    informative: PositiveInt | None = None
    """Groups with both right and wrong responses that a fixed batch needs. Its prompts are sampled
    shard by shard until there are that many or all `count` are used; other groups are left out. If
    not set, all prompts are sampled and all groups kept. For training prompts only.
    """

    @model_validator(mode="after")
    def _enough_to_choose_from(self) -> Self:
        if self.informative and self.count and self.informative > self.count:
            raise ValueError(
                f"informative ({self.informative}) must not exceed count ({self.count}), the "
                f"number of prompts that may be sampled for it"
            )
        return self


class _Problems(_Draw):
    template: str = "{problem}"
    """Wording of the prompt, with `{problem}` where the problem goes, or the name of a known
    wording (`plain`, `polaris`, `matharena`, `matharena_aime`).
    """
    extractor: Extractor = "auto"
    """Where the answer is in a response: in a box or a final line (`auto`), in a box only
    (`boxed`), after the last '#' (`hash`). `code` runs the last block of code on unit tests. The
    other values use the grader of another project.
    """

    @field_validator("template")
    @classmethod
    def _has_problem(cls, template: str) -> str:
        return worded(template)


class _Choice(Config):
    """Settings of problems that are drawn from a fixed pool."""

    difficulty: DifficultyConfig | None = None
    """Selection of problems by difficulty; if not set, all may be drawn."""
    overlap: OverlapConfig | None = None
    """Check against validation problems and benchmarks; for training prompts only."""


class TinyProblems(_Problems):
    """Additions for the embedded tiny model, in disjoint train, validation and test splits."""

    kind: Literal["tiny"] = "tiny"
    split: Literal["train", "validation", "test"] = "train"
    """The split from which problems are drawn."""
    count: PositiveInt | None = 256
    """Number of problems to draw; if not set, all of the split."""
    extractor: Extractor = "hash"
    """Where the answer is in a response; the tiny model writes it after the last '#'."""


class FileProblems(_Problems, _Choice):
    """A local JSONL, JSON, CSV or Parquet file, or a directory of such files."""

    kind: Literal["file"] = "file"
    path: str
    """Path of the file or directory."""
    problem_column: str = "problem"
    """Column of the problem's text."""
    answer_column: str = "answer"
    """Column of the gold answer."""
    reader: Reader = "plain"
    """Format of the rows: `plain` (a problem and an answer), `livecodebench`, or `unit_tests` (a
    prompt and JSON of unit tests).
    """


class HubProblems(_Problems, _Choice):
    """A data set of the Hugging Face hub, with its published columns.

    It is read as files; no code of it is ever executed.
    """

    kind: Literal["hub"] = "hub"
    id: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """Id on the hub, as `owner/name`."""
    revision: str | None = None
    """A commit, tag or branch. If not set, the commit of the main branch at the first download; it
    is recorded and used from then on.
    """
    split: str = "train"
    """Name of the split."""
    files: tuple[str, ...] = ()
    """Patterns of the files to read, in order; `{split}` in them is replaced. If not set, the data
    files with the split in their name.
    """
    problem_column: str = "problem"
    """Column of the problem's text."""
    answer_column: str = "answer"
    """Column of the gold answer."""
    reader: Reader = "plain"
    """Format of the rows: `plain` (a problem and an answer), `livecodebench`, or `unit_tests` (a
    prompt and JSON of unit tests).
    """


class GymProblems(_Problems):
    """A reasoning-gym family: generated, verifiable, offline.

    A hash of its text assigns every problem to one split.
    """

    kind: Literal["gym"] = "gym"
    family: str
    """Name of the family."""
    split: Literal["train", "validation", "test"] = "train"
    """The split from which problems are drawn."""
    params: dict[str, int | float | str | bool | list[str]] = Field(default_factory=dict)
    """Parameters of the family's generator."""
    count: PositiveInt | None = 256
    """Number of problems to draw."""


class NamedProblems(_Draw, _Choice):
    """A set of the catalog (`erpd benchmarks`), by its name.

    Values given here override those of the catalog.
    """

    kind: Literal["named"] = "named"
    name: str
    """Name in the catalog."""
    path: str | None = None
    """A local copy to read instead of the hub: a file, or a directory of files."""
    revision: str | None = None
    """A commit, tag or branch on the hub."""
    split: str | None = None
    """Name of the split."""
    template: str | None = None
    """Wording of the prompt, with `{problem}` where the problem goes, or the name of a known
    wording.
    """
    extractor: Extractor | None = None
    """Where the answer is in a response, or whose grader is used."""
    problem_column: str | None = None
    """Column of the problem's text."""
    answer_column: str | None = None
    """Column of the gold answer."""

    @field_validator("template")
    @classmethod
    def _has_problem(cls, template: str | None) -> str | None:
        return None if template is None else worded(template)


ProblemsConfig = Annotated[
    TinyProblems | FileProblems | HubProblems | GymProblems | NamedProblems,
    Field(discriminator="kind"),
]
