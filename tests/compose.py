"""docker/compose.yaml as Compose reads it: anchors merged, environment variables substituted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from helpers import ROOT

FOLDER = ROOT / "docker"
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[?-])(?P<text>[^}]*))?\}")
"""The three forms that the file uses: `${NAME}`, `${NAME:?error if missing}`, `${NAME:-default}`.
"""


def written() -> dict[str, Any]:
    """The file with its anchors merged and its variables not substituted."""
    content: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
    return content


def texts(node: Any) -> Iterator[str]:
    """Every string of a tree."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)


def variables(node: Any, kind: str | None) -> set[str]:
    """Names of the variables of a kind: `?` is required, `-` optional."""
    return {
        match["name"]
        for text in texts(node)
        for match in VARIABLE.finditer(text)
        if match["kind"] == kind
    }


def interpolated(node: Any, environment: Mapping[str, str]) -> Any:
    """A tree with its variables substituted.

    Raises KeyError for a required one that is missing or empty.
    """

    def value(match: re.Match[str]) -> str:
        given = environment.get(match["name"], "")
        if not given and match["kind"] == "?":
            raise KeyError(match["name"])
        return given or (match["text"] or "")

    if isinstance(node, str):
        return VARIABLE.sub(value, node)
    if isinstance(node, dict):
        return {key: interpolated(child, environment) for key, child in node.items()}
    return [interpolated(child, environment) for child in node] if isinstance(node, list) else node
