"""Recipes: YAML files with `extends`, resolved with overrides to one frozen CampaignConfig."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from erpd_core.config import CampaignConfig

FOLDER = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Every recipe that ships with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("_"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> CampaignConfig:
    """Resolve a recipe name or a YAML path, with `key.path=value` overrides.

    **Raises:** ValueError, one line with place and mend: unknown recipe, broken YAML, unknown key, wrong value, malformed override.
    """
    path = recipe_path(name)
    tree = read_tree(path)
    if "arms" in tree:
        raise ValueError(f"{name}: is a study of several campaigns, not one (flows.studies.load_study reads it)")
    apply_overrides(tree, overrides)
    tree.setdefault("name", path.stem)
    return config_of(tree, name)


def read_tree(path: Path) -> dict[str, Any]:
    """A recipe's mapping with what it extends below it, not yet checked."""
    return _extended(path, ())


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set `key.path=value` in place. Raises ValueError for a malformed one."""
    for override in overrides:
        _override(tree, override)


def config_of(tree: Mapping[str, Any], name: str) -> CampaignConfig:
    """The config a mapping stands for. Raises ValueError, in one line that begins with `name`."""
    try:
        return CampaignConfig.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{name}: {explain(error)}") from error


def recipe_path(name: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not _is_file(path):
            shown = name if len(name) < 200 else f"{name[:200]}..."
            raise ValueError(f"recipe file {shown} is not there; check the path, or choose a recipe: tiny, say (see `erpd recipes`)")
        return path
    found = FOLDER / f"{name}.yaml"
    if name not in recipe_names():
        raise ValueError(f"no recipe {name!r}; choose one of: {', '.join(recipe_names())}, or give a YAML path")
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long for any file, or with a null byte
        return False


def explain(error: ValidationError) -> str:
    """Every fault of a config in one line: where, what, and what was given."""
    lines = []
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"]) or "recipe"
        kind = fault["type"]
        if kind == "extra_forbidden":
            lines.append(f"{place}: unknown key; remove it or correct its spelling (`erpd show tiny` prints every key)")
        elif kind == "missing":
            lines.append(f"{place}: is missing; add it")
        elif kind == "union_tag_not_found":
            lines.append(f"{place}: needs a `kind` that says which of its forms is meant (in YAML a space follows the colon)")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            given = "" if isinstance(fault["input"], dict | list) else f" (given: {fault['input']!r})"
            lines.append(f"{place}: {message}{given}")
    return "; ".join(lines)


def _extended(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise ValueError(f"{path.name}: extends itself through {' -> '.join(p.name for p in seen)}; break the circle")
    tree = _read(path)
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise ValueError(f"{path.name}: extends must be the name of one recipe, found {parent!r}")
    beside = path.parent / parent
    above = beside if beside.suffix in (".yaml", ".yml") and _is_file(beside) else recipe_path(parent)
    return merge(_extended(above, (*seen, path)), tree)


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        raise ValueError(f"{path}: broken YAML at {where}: {getattr(error, 'problem', None) or 'not readable'}; mend that line") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text; a recipe is a YAML file") from error
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deeply to read; a recipe has a few levels") from error
    except ValueError as error:  # a date or a number that YAML recognises and Python cannot hold
        raise ValueError(f"{path}: {error}; put that value in quotes or correct it") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: a recipe is a mapping of keys to values, found {type(tree).__name__}")
    return tree


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings are merged key by key; a mapping of another `kind` replaces the one below, since its keys mean other things."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        same = isinstance(old, Mapping) and isinstance(value, Mapping) and value.get("kind", old.get("kind")) == old.get("kind")
        merged[key] = merge(old, value) if same else value  # type: ignore[arg-type]
    return merged


def _override(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    shown = override if len(override) <= 80 else override[:77] + "..."
    if not equals or not path:
        raise ValueError(f"--set {shown!r}: write key.path=value, for example --set seed=3")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"--set {shown!r}: the value is not readable as YAML; put it in quotes") from error
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
        tree.clear()  # the other keys belong to the kind that was there
    tree[last] = value
