"""Studies: campaigns that differ in one setting, compared with the paper's numbers.

Every table and figure of the paper is a study. A study is a recipe with `arms`; each arm is a
campaign. What arms have in common (batch, teacher, columns) has one identity in the store and is
computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from erpd_core.config import CampaignConfig
from erpd_core.refs import Frozen
from flows.recipes.load import (
    FOLDER,
    apply_overrides,
    config_of,
    explain,
    merge,
    read_tree,
    recipe_path,
)
from flows.recipes.paper import PaperRow, PaperTable, load_paper

Scale = Literal["tiny", "smollm2", "paper"]
Picture = Literal[
    "gains",
    "score_vs_kl",
    "teacher_curves",
    "online_curves",
    "stages",
    "deviation",
    "log_ratios",
    "time",
]
RowPolicy = Annotated[str, Field(pattern=r"^(base|\d+\.(teacher|student))$")]


class ArmFile(Frozen):
    """One arm as a recipe file gives it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.+-]{0,60}$")]
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings of this arm, over those of the study."""
    at: dict[Scale, dict[str, Any]] = Field(default_factory=dict)
    """Settings of this arm at one scale only, over `set`."""
    only: tuple[Scale, ...] = ("tiny", "smollm2", "paper")
    rows: dict[RowPolicy, str] = Field(default_factory=dict)
    """Policy of the arm -> the row of the paper that it is compared with.

    `1.student` is the student of iteration 1. A row is given as its key, or as `group:key` if
    several groups have the key; without a group the first one is taken.
    """


class StudyFile(Frozen):
    """A study as a recipe file gives it."""

    description: str
    paper: str | None = None
    """Name of the paper's table or figure (`flows/recipes/paper/`)."""
    pictures: tuple[Picture, ...] = ("gains", "score_vs_kl")
    scale: Scale = "tiny"
    common: dict[str, Any] = Field(default_factory=dict)
    """Settings of all arms at every scale, over the scale's recipe."""
    scales: dict[Scale, dict[str, Any]]
    """Settings of all arms at one scale, over `common`."""
    arms: Annotated[tuple[ArmFile, ...], Field(min_length=1)]


class Arm(Frozen):
    """One campaign of a study."""

    name: str
    config: CampaignConfig
    rows: dict[str, str]


class Study(Frozen):
    """A study at one scale, ready to run."""

    name: str
    description: str
    scale: Scale
    paper: str | None
    pictures: tuple[Picture, ...]
    arms: tuple[Arm, ...]
    recipe: str = ""
    """The study's name or path as the user gave it."""
    overrides: tuple[str, ...] = ()
    """Overrides of all arms, without the scale."""


def is_study(name: str) -> bool:
    """Whether this recipe has arms.

    **Raises:** ValueError if the recipe does not exist or cannot be read.
    """
    return "arms" in read_tree(recipe_path(name))


def load_study(name: str, overrides: Sequence[str] = ()) -> Study:
    """Resolve a study: `scale=...` chooses the scale, every other override goes to all arms.

    **Raises:** ValueError, in one line with place and remedy, for an unknown recipe, an unknown
        key, a wrong value, or a scale that the study does not have.
    """
    path = recipe_path(name)
    try:
        file = StudyFile.model_validate(read_tree(path))
    except ValidationError as error:
        raise ValueError(f"{name}: {explain(error)}") from error
    scale, rest = _scale(file, overrides)
    arms = tuple(_arm(path, file, arm, scale, rest) for arm in file.arms if scale in arm.only)
    _check_rows(name, file)
    return Study(
        name=path.stem,
        description=file.description,
        scale=scale,
        paper=file.paper,
        pictures=file.pictures,
        arms=arms,
        recipe=name,
        overrides=tuple(rest),
    )


def paper_row(table: PaperTable, place: str) -> PaperRow:
    """The row that `key` or `group:key` names.

    If several groups have the key, the first one is taken. A figure's value counts as a row.

    **Raises:** ValueError if there is no such row.
    """
    group, _, key = place.rpartition(":")
    for row in table.rows:
        if row.key == key and group in ("", row.group):
            return row
    if not group and key in table.values:
        return PaperRow(key=key, label=key, values=table.values[key])
    known = [f"{row.group}:{row.key}" if row.group else row.key for row in table.rows] or list(
        table.values
    )
    raise ValueError(
        f"{table.source} has no row {place!r}; choose one of: "
        f"{', '.join(known) or 'none, it has no rows'}"
    )


def _check_rows(name: str, file: StudyFile) -> None:
    """Check the names of rows before the arms run, not in the report after them."""
    if file.paper is None:
        if any(arm.rows for arm in file.arms):
            raise ValueError(
                f"{name}: arms name rows of the paper, but the study has no `paper`; add it or "
                f"remove `rows`"
            )
        return
    table = load_paper(file.paper)
    for arm in file.arms:
        for where, place in arm.rows.items():
            try:
                paper_row(table, place)
            except ValueError as error:
                raise ValueError(f"{name}: arm {arm.name}: rows.{where}: {error}") from error


def _scale(file: StudyFile, overrides: Sequence[str]) -> tuple[Scale, list[str]]:
    chosen = [text.removeprefix("scale=") for text in overrides if text.startswith("scale=")]
    scale = chosen[-1] if chosen else file.scale
    if scale not in file.scales:
        raise ValueError(
            f"--set scale={scale}: this study runs at {', '.join(file.scales)}; choose one of them"
        )
    return scale, [text for text in overrides if not text.startswith("scale=")]


def _arm(path: Path, file: StudyFile, arm: ArmFile, scale: Scale, overrides: Sequence[str]) -> Arm:
    tree: dict[str, Any] = read_tree(FOLDER / "scales" / f"{scale}.yaml")
    layers: list[Mapping[str, Any]] = [
        file.common,
        file.scales[scale],
        arm.set,
        arm.at.get(scale, {}),
    ]
    for layer in layers:
        tree = merge(tree, layer)
    apply_overrides(tree, overrides)
    tree |= {
        "name": f"{path.stem}-{arm.name}".replace(".", "-").replace("+", "-")[:61],
        "description": f"{path.stem}, {arm.name}: {file.description}",
    }
    return Arm(name=arm.name, config=config_of(tree, f"{path.stem}, arm {arm.name}"), rows=arm.rows)
