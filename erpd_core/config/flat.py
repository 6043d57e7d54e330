"""Nested settings as a flat mapping of dotted keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted key -> value; lists and empty mappings are values.

    **Example:** `flatten({"teacher": {"steps": 40}}) == {"teacher.steps": 40}`
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = value
    return flat
