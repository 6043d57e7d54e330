"""A model's shape and the lengths to expect of it, before anything of it is loaded."""

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
"""Of the sampling limit: what a response is taken to be where nothing is known of the model."""


class ShapeEntry(Frozen):
    """One model of the catalogue."""

    shape: ModelShape | None = None
    source: str
    prompt: float = 150.0
    response: float
    lengths: str


class KnownModel(Frozen):
    """What is known of a campaign's model."""

    name: str
    shape: ModelShape | None
    """None where it is unknown."""
    source: str
    """Where the shape is from; of an unknown one, why it is unknown."""
    lengths: Lengths


def known_model(model: ModelConfig, limit: int) -> KnownModel:
    """**Arguments:** `limit`: tokens a response may take at most, for a guess where nothing is
    known of the model's lengths.
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
    """A model's name in the catalogue, and the folder its config.json would be in."""
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
    """Where the hub's cache has the model's config; None where it was never downloaded. Asks no
    network.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.id, "config.json", revision=model.revision)
    return Path(found).parent if isinstance(found, str) else None


def _read(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read
