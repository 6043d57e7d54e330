"""docker/compose.yaml as Compose understands it: anchors merged, variables of the environment
put in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from helpers import ROOT

FOLDER = ROOT / "docker"
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[?-])(?P<text>[^}]*))?\}")
"""`${NAME}`, `${NAME:?what is wrong without it}` or `${NAME:-what it is when absent}`: the three
forms that the file uses.
"""


def written() -> dict[str, Any]:
    """The file with its anchors merged and its variables as they are written."""
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
    """Names of the variables of a kind: `?` must be given, `-` may be."""
    return {
        found["name"]
        for text in texts(node)
        for found in VARIABLE.finditer(text)
        if found["kind"] == kind
    }


def interpolated(node: Any, environment: Mapping[str, str]) -> Any:
    """A tree with its variables put in. Raises KeyError for one that must be given and is not,
    or is empty.
    """

    def value(found: re.Match[str]) -> str:
        given = environment.get(found["name"], "")
        if not given and found["kind"] == "?":
            raise KeyError(found["name"])
        return given or (found["text"] or "")

    if isinstance(node, str):
        return VARIABLE.sub(value, node)
    if isinstance(node, dict):
        return {key: interpolated(one, environment) for key, one in node.items()}
    return [interpolated(one, environment) for one in node] if isinstance(node, list) else node
