"""A model's shape and expected lengths, before any of it is loaded."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from erpd_core.config import (
    DirectoryModel,
    EmbeddedModel,
    HubModel,
    ModelConfig,
    PackagedModel,
    StoredModel,
)
from erpd_core.estimates import Lengths, ModelShape
from erpd_core.refs import Frozen
from tasks.models.import_policy import ASSETS
from tasks.store import open_store
from tasks.untrusted.input_files import expanded

FILE = Path(__file__).with_name("shapes.yaml")
SHARE = 0.6
"""Length of a response as a share of the sampling limit, assumed for an unknown model."""


class ShapeEntry(Frozen):
    """One model of the catalogue of shapes."""

    shape: ModelShape | None = None
    source: str
    prompt: float = 150.0
    response: float
    lengths: str


class KnownModel(Frozen):
    """What is known about a campaign's model."""

    name: str
    shape: ModelShape | None
    """None if it is unknown."""
    source: str
    """Where the shape is from, or why it is unknown."""
    lengths: Lengths


def known_model(model: ModelConfig, limit: int) -> KnownModel:
    """Look up the shape and the lengths of a campaign's model.

    **Arguments:**
        limit: Maximum tokens of a response, for a guess if the model's lengths are unknown.
    """
    name, folder = _place(model)
    entry = catalogue().get(name)
    guess = Lengths(response=SHARE * limit, source=f"unknown: {SHARE:.0%} of the sampling limit")
    lengths = (
        Lengths(prompt=entry.prompt, response=entry.response, source=entry.lengths)
        if entry
        else guess
    )
    config = None if folder is None else folder / "config.json"
    if config is not None and config.is_file():
        try:
            return KnownModel(
                name=name,
                shape=ModelShape.from_config(_read(config)),
                source="its config.json",
                lengths=lengths,
            )
        except ValueError as error:
            return KnownModel(
                name=name, shape=None, source=f"unknown shape: {error}", lengths=lengths
            )
    if entry is not None and entry.shape is not None:
        return KnownModel(name=name, shape=entry.shape, source=entry.source, lengths=lengths)
    why = (
        f"unknown shape: {name} is not on this machine and not in the catalogue of shapes "
        f"({FILE.name})"
    )
    return KnownModel(name=name, shape=None, source=why, lengths=lengths)


@cache
def catalogue() -> dict[str, ShapeEntry]:
    return TypeAdapter(dict[str, ShapeEntry]).validate_python(
        yaml.safe_load(FILE.read_text(encoding="utf-8"))
    )


def _place(model: ModelConfig) -> tuple[str, Path | None]:
    """A model's name in the catalogue, and the folder of its config.json (None if unknown)."""
    if isinstance(model, EmbeddedModel):
        return f"embedded/{model.name}", ASSETS / f"{model.name}-base"
    if isinstance(model, DirectoryModel):
        return model.path, expanded(model.path, "model.path")
    if isinstance(model, PackagedModel):
        return f"packaged/{model.package}", None
    if isinstance(model, StoredModel):
        return model.id, open_store().path(model.id)
    assert isinstance(model, HubModel)
    return model.id, _downloaded(model)


def _downloaded(model: HubModel) -> Path | None:
    """Folder of the model's config in the hub's cache; None if it was never downloaded.

    Does not use the network.
    """
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model.id, "config.json", revision=model.revision)
    return Path(cached).parent if isinstance(cached, str) else None


def _read(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config
