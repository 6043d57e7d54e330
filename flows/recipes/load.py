"""Recipes: YAML files with `extends`, resolved with overrides to one frozen CampaignConfig."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from erpd_core.config import CampaignConfig
from tasks.untrusted.input_files import readable, short
from tasks.untrusted.yaml_files import read_mapping, read_yaml

FOLDER = Path(__file__).parent
FAULTS = 8
"""Largest number of faults of a config that one message lists."""


def recipe_names() -> list[str]:
    """Names of the recipes that are part of the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("_"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> CampaignConfig:
    """Resolve a recipe name or a YAML path, with `key.path=value` overrides.

    **Raises:** ValueError, in one line with place and remedy, for an unknown recipe, broken YAML,
        an unknown key, a wrong value, or a malformed override.
    """
    path = recipe_path(name)
    tree = read_tree(path)
    if "arms" in tree:
        raise ValueError(
            f"{name}: is a study of several campaigns, not one campaign "
            f"(flows.recipes.studies.load_study reads it)"
        )
    apply_overrides(tree, overrides)
    tree.setdefault("name", path.stem)
    return config_of(tree, name)


def read_tree(path: Path) -> dict[str, Any]:
    """A recipe's mapping, merged over the recipe it extends; not validated yet."""
    return _extended(path, ())


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply `key.path=value` overrides in place. Raises ValueError for a malformed one."""
    for override in overrides:
        _override(tree, override)


def config_of(tree: Mapping[str, Any], name: str) -> CampaignConfig:
    """The config of a mapping.

    **Raises:** ValueError, in one line that begins with `name`, if it is not valid.
    """
    try:
        return CampaignConfig.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{name}: {explain(error)}") from error


def recipe_path(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        try:
            return readable(path, "recipe file")
        except ValueError as error:
            raise ValueError(
                f"{error}, or choose a recipe, for example tiny (see `erpd recipes`)"
            ) from error
    if name not in recipe_names():
        raise ValueError(
            f"no recipe {short(name)!r}; choose one of: {', '.join(recipe_names())}, or give a "
            f"YAML path"
        )
    return FOLDER / f"{name}.yaml"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long for a file, or has a null byte
        return False


def explain(error: ValidationError) -> str:
    """The faults of a config in one line: each with its place, its message and the given value."""
    lines = []
    for fault in error.errors()[:FAULTS]:
        place = ".".join(short(part) for part in fault["loc"]) or "recipe"
        kind = fault["type"]
        if kind == "extra_forbidden":
            lines.append(
                f"{place}: unknown key; remove it or correct its spelling (`erpd show tiny` "
                f"prints every key)"
            )
        elif kind == "missing":
            lines.append(f"{place}: is missing; add it")
        elif kind == "union_tag_not_found":
            lines.append(
                f"{place}: needs a `kind` that says which of its forms is meant (in YAML a space "
                f"follows the colon)"
            )
        else:
            message = fault["msg"].removeprefix("Value error, ")
            given = (
                ""
                if isinstance(fault["input"], dict | list)
                else f" (given: {short(repr(fault['input']))})"
            )
            lines.append(f"{place}: {message}{given}")
    if (more := error.error_count() - len(lines)) > 0:
        lines.append(f"and {more} more faults")
    return "; ".join(lines)


def _extended(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ValueError(
            f"{path.name}: extends itself through {' -> '.join(p.name for p in seen)}; break the "
            f"circle"
        )
    tree = read_mapping(path, "a recipe")
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise ValueError(
            f"{path}: extends must be the name of one recipe, found {short(repr(parent))}; name one"
        )
    sibling = path.parent / parent
    try:
        above = (
            sibling
            if sibling.suffix in (".yaml", ".yml") and _is_file(sibling)
            else recipe_path(parent)
        )
    except ValueError as error:
        raise ValueError(f"{path}: extends: {error}") from error
    return merge(_extended(above, (*seen, path.resolve())), tree)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings key by key; values of `above` win.

    A mapping with another `kind` replaces the one below, because its keys mean other things.
    """
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        same = (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and value.get("kind", old.get("kind")) == old.get("kind")
        )
        merged[key] = merge(old, value) if same else value  # type: ignore[arg-type]
    return merged


def _override(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    shown = short(override)
    if not equals or not path:
        raise ValueError(f"--set {shown!r}: write key.path=value, for example --set seed=3")
    value = read_yaml(text, f"--set {shown!r}")
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # YAML 1.1 reads 1e-4 as text
            value = float(value)
    *parents, last = path.split(".")
    for part in parents:
        node = tree.setdefault(part, {})
        if not isinstance(node, dict):
            raise ValueError(f"--set {shown!r}: {part} is not a section")
        tree = node
    if last == "kind" and tree.get("kind") != value:
        tree.clear()  # the other keys belong to the previous kind
    tree[last] = value


def setting_text(value: Any) -> str:
    """A value as `--set key.path=value` takes it: YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()
