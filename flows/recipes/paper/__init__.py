"""The paper's numbers and settings as data.

There is one YAML file per table or figure, and `settings.yaml` for the paper's scale. Reports join
on a row's group and key; the head of each file says what its keys mean. Numbers are as printed:
nothing is computed here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from erpd_core.refs import Frozen

__all__ = [
    "PaperBenchmark",
    "PaperModel",
    "PaperPrompts",
    "PaperRow",
    "PaperSampling",
    "PaperSetting",
    "PaperSettings",
    "PaperTable",
    "load_paper",
    "load_paper_settings",
    "paper_names",
]

FOLDER = Path(__file__).parent
Scalar = int | float | str
T = TypeVar("T", bound=Frozen)


class PaperSetting(Frozen):
    """One setting of an experiment.

    If `section` begins with "inferred", the value is our inference, and `section` says from what.

    **Example:** `PaperSetting(value=10, section="Sec. 4.4")`
    """

    value: Scalar | tuple[Scalar, ...]
    section: str


class PaperRow(Frozen):
    """One row of a table. A cell that the paper leaves blank is absent from `values`.

    **Example:** `PaperRow(key="ce+distill", label="CE + Distillation", group="NBG4-3B",
    values={"AIME24": 90.9, "KL": 0.02})`
    """

    key: str = Field(pattern=r"^[a-z0-9][a-z0-9.@+-]*$")
    label: str
    group: str = ""
    """Distinguishes rows of the same key, as in the paper: a model, an arm, a part of the table."""
    values: dict[str, float]


class PaperTable(Frozen):
    """A table (`rows`) or a figure (`values`: numbers the text gives, by key and column)."""

    title: str
    source: str
    benchmarks: tuple[str, ...] = ()
    """Columns that are scores, in % and in the paper's order; `Avg` is an average it prints."""
    other: tuple[str, ...] = ()
    """Columns that are not scores."""
    units: dict[str, str] = Field(default_factory=dict)
    rows: tuple[PaperRow, ...] = ()
    values: dict[str, dict[str, float]] = Field(default_factory=dict)
    findings: tuple[str, ...] = Field(min_length=1)
    settings: dict[str, PaperSetting] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> PaperTable:
        columns = (*self.benchmarks, *self.other)
        if strange := [unit for unit in self.units if unit not in columns]:
            raise ValueError(f"units: {strange} are not columns; choose from {list(columns)}")
        seen = set()
        for where, row in (
            *((f"row {row.group}/{row.key}", row.values) for row in self.rows),
            *self.values.items(),
        ):
            if strange := [column for column in row if column not in columns]:
                raise ValueError(f"{where}: {strange} are not columns; choose from {list(columns)}")
            if where in seen:
                raise ValueError(f"{where} appears twice; keys are unique within a group")
            seen.add(where)
        return self

    def row(self, key: str, group: str | None = None) -> PaperRow:
        """The row of a key, which several groups may have.

        **Raises:** ValueError if there is no such row, or several and no group is given.
        """
        rows = [row for row in self.rows if row.key == key and group in (None, row.group)]
        if len(rows) != 1:
            known = sorted(
                {
                    row.key if group else f"{row.group}/{row.key}"
                    for row in self.rows
                    if group in (None, row.group)
                }
            )
            raise ValueError(
                f"{self.source}: {len(rows)} rows have key {key!r} and group {group!r}; there "
                f"are: {', '.join(known) or 'none'}"
            )
        return rows[0]


class PaperSampling(Frozen):
    """How a model is sampled: the keys of a recipe's `sampling`, and two that it does not have."""

    samples: PositiveInt | None = None
    temperature: PositiveFloat
    top_p: float = Field(gt=0, le=1)
    top_k: PositiveInt | None = None
    presence_penalty: float | None = None
    max_new_tokens: PositiveInt


class PaperModel(Frozen):
    id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    names: tuple[str, ...] = Field(min_length=1)
    """The paper's spellings of the model."""
    experiments: tuple[str, ...]
    sampling: PaperSampling
    evaluation: PaperSampling
    """Sampling for evaluation, without `samples`: these belong to the benchmark."""


class PaperPrompts(Frozen):
    """A data set of training problems."""

    id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    split: str
    revision: str | None = None
    problem_column: str
    answer_column: str
    count: PositiveInt
    template: str = "{problem}"


class PaperBenchmark(PaperPrompts):
    """A benchmark. `samples` is the K of AVG@K; None if the paper does not give it."""

    slug: str = Field(pattern=r"^[a-z0-9_]+$")
    samples: PositiveInt | None
    tools: str
    validation: bool = False


class PaperSettings(Frozen):
    models: dict[str, PaperModel]
    benchmarks: dict[str, PaperBenchmark]
    prompts: dict[str, PaperPrompts]
    training: dict[str, dict[str, Scalar | tuple[Scalar, ...]]]

    def model(self, name: str) -> PaperModel:
        """The model that the paper calls `name`, in any of its spellings.

        **Raises:** ValueError if there is none.
        """
        for model in self.models.values():
            if name in model.names:
                return model
        raise ValueError(f"the paper has no model {name!r}; it has: {', '.join(self.models)}")


def paper_names() -> list[str]:
    """Tables and figures that have a file: fig4, fig5, ..., table1, ..., table12."""
    matches = [re.fullmatch(r"(fig|table)(\d+)", path.stem) for path in FOLDER.glob("*.yaml")]
    return [
        match[0]
        for match in sorted(
            (match for match in matches if match), key=lambda match: (match[1], int(match[2]))
        )
    ]


def load_paper(name: str) -> PaperTable:
    """A table or figure by name, for example `load_paper("table1")`.

    **Raises:** ValueError that says what is wrong, and where.
    """
    if name not in paper_names():
        raise ValueError(
            f"the paper has no {name!r} here; choose one of: {', '.join(paper_names())}"
        )
    return _read(FOLDER / f"{name}.yaml", PaperTable)


def load_paper_settings() -> PaperSettings:
    """The paper's scale: models, benchmarks, prompts and hyperparameters."""
    return _read(FOLDER / "settings.yaml", PaperSettings)


def _read(path: Path, kind: type[T]) -> T:
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name}: broken YAML: {' '.join(str(error).split())}") from error
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'file'}: "
            f"{fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        ]
        raise ValueError(f"{path.name}: {'; '.join(faults)}") from error
