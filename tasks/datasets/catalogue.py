"""Named sets: `catalogue.yaml` read, and names turned into the sources they stand for."""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, PositiveInt, TypeAdapter

from erpd_core.config import (
    FileProblems,
    GymProblems,
    HubProblems,
    NamedProblems,
    ProblemsConfig,
    TinyProblems,
)
from erpd_core.refs import Frozen

FILE = Path(__file__).with_name("catalogue.yaml")
Source = HubProblems | GymProblems
Concrete = TinyProblems | FileProblems | HubProblems | GymProblems
"""A source that is not a name."""


class CatalogueEntry(Frozen):
    """One named set."""

    about: str
    use: Literal["training", "benchmark"]
    source: Source = Field(discriminator="kind")
    rows: PositiveInt | None = None
    """How many problems it has, where that is known."""
    samples: PositiveInt | None = None
    """K of AVG@K in the paper (Sec. 4.1)."""
    licence: str | None = None


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """Every named set, in the order of the file."""
    return TypeAdapter(dict[str, CatalogueEntry]).validate_python(
        yaml.safe_load(FILE.read_text(encoding="utf-8"))
    )


def entry(name: str) -> CatalogueEntry:
    """The set called `name`, whatever its case, spaces and dashes. Raises ValueError, naming
    those that are near.
    """
    found = {_plain(known): one for known, one in catalogue().items()}.get(_plain(name))
    if found is None:
        near = difflib.get_close_matches(name, catalogue(), n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"there is no set named {name!r}{hint} (`erpd benchmarks` lists them)")
    return found


def concrete(source: ProblemsConfig) -> Concrete:
    """The source a name stands for, what the recipe says laid over it; any other source as it
    is. Raises ValueError for an unknown name.
    """
    if not isinstance(source, NamedProblems):
        return source
    base = entry(source.name).source
    said = source.model_dump(exclude_none=True, exclude={"kind", "name"})
    if isinstance(base, GymProblems):
        if unfit := sorted(said.keys() - GymProblems.model_fields.keys()):
            raise ValueError(
                f"{source.name} is generated, so {', '.join(unfit)} means nothing to it; remove it"
            )
        return GymProblems.model_validate({**base.model_dump(), **said})
    if source.path is not None:
        if unfit := sorted(said.keys() & {"revision", "split"}):
            raise ValueError(
                f"{source.name} is read from {source.path}, where {', '.join(unfit)} means "
                f"nothing; remove one of the two"
            )
        return FileProblems.model_validate(
            {**base.model_dump(exclude={"kind", "id", "revision", "split", "files"}), **said}
        )
    return HubProblems.model_validate({**base.model_dump(), **said})


def benchmark_from_text(text: str, count: int | None) -> ProblemsConfig:
    """What `erpd eval --benchmark` takes: `tiny`, a file, a name of the catalogue, or
    `gym:FAMILY`. Raises ValueError for anything else.
    """
    if text == "tiny":
        return TinyProblems(split="test", count=count or 200)
    if Path(text).suffix in (".jsonl", ".json", ".csv", ".parquet"):
        return FileProblems(path=text, count=count)
    if text.startswith("gym:"):
        return GymProblems(family=text.removeprefix("gym:"), split="test", count=count or 256)
    try:
        entry(text)
    except ValueError as error:
        raise ValueError(
            f"benchmark: {error}; or give `tiny`, `gym:FAMILY`, or a .jsonl, .json, .csv or "
            f".parquet file"
        ) from error
    return NamedProblems(name=text, count=count)


def samples_of(text: str) -> int | None:
    """The paper's K of a named benchmark; None where there is no such name or K."""
    try:
        return entry(text).samples
    except ValueError:
        return None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
