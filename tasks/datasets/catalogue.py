"""The named problem sets of `catalogue.yaml`, and the sources that their names mean."""

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
    """Number of problems, if known."""
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
    """The set called `name`; case, spaces and dashes do not matter.

    **Raises:** ValueError with similar names for an unknown one.
    """
    match = {_plain(known): listed for known, listed in catalogue().items()}.get(_plain(name))
    if match is None:
        near = difflib.get_close_matches(name, catalogue(), n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"there is no set named {name!r}{hint} (`erpd benchmarks` lists them)")
    return match


def concrete(source: ProblemsConfig) -> Concrete:
    """The source that a name means, with the recipe's values on top; any other source unchanged.

    **Raises:** ValueError for an unknown name, and for values that do not apply to its source.
    """
    if not isinstance(source, NamedProblems):
        return source
    base = entry(source.name).source
    overrides = source.model_dump(exclude_none=True, exclude={"kind", "name"})
    if isinstance(base, GymProblems):
        if unfit := sorted(overrides.keys() - GymProblems.model_fields.keys()):
            raise ValueError(
                f"{source.name} is generated, so it has no {', no '.join(unfit)}; remove it"
            )
        return GymProblems.model_validate({**base.model_dump(), **overrides})
    if source.path is not None:
        if unfit := sorted(overrides.keys() & {"revision", "split"}):
            raise ValueError(
                f"{source.name} is read from {source.path}, which has no {', no '.join(unfit)}; "
                f"remove one of the two"
            )
        return FileProblems.model_validate(
            {**base.model_dump(exclude={"kind", "id", "revision", "split", "files"}), **overrides}
        )
    return HubProblems.model_validate({**base.model_dump(), **overrides})


def benchmark_from_text(text: str, count: int | None) -> ProblemsConfig:
    """Parse `erpd eval --benchmark`: `tiny`, a file, a name of the catalogue, or `gym:FAMILY`.

    **Raises:** ValueError for any other text.
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
    """The paper's K of a named benchmark; None for an unknown name or one without a K."""
    try:
        return entry(text).samples
    except ValueError:
        return None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
