"""How a model is sampled when nobody says: as the paper does, else as its own files say (Sec.
4.1: "model's other defaults").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erpd_core.config import SamplingConfig

EVALUATION = {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 1024}
"""Sec. 4.1; the length limit is ours, for a first look: the paper's are 65,536 to 192,000 tokens
of GPU time a response.
"""
FAMILIES: dict[str, dict[str, Any]] = {"qwen3_5": {"temperature": 1.0, "presence_penalty": 1.5}}
"""Beginning of `model_type` in config.json -> what Sec. 4.1 and the model's card say otherwise
for that family.
"""
OWN = ("top_k",)
"""Keys of generation_config.json that are taken from the model; temperature and top-p are the
paper's for every model.
"""


def evaluation_sampling(folder: Path, given: Mapping[str, Any]) -> SamplingConfig:
    """The sampling of an evaluation of the model in `folder`. What is given, and not None, wins; a
    `top_k` of 0 turns the model's off.

    Raises ValueError (pydantic's ValidationError) for values no sampling can have.
    """
    kind = str(_read(folder / "config.json").get("model_type", ""))
    settings: dict[str, Any] = dict(EVALUATION)
    for family, own in FAMILIES.items():
        if kind.startswith(family):
            settings |= own
    settings |= {
        name: value for name in OWN if (value := _read(folder / "generation_config.json").get(name))
    }
    settings |= {name: value for name, value in given.items() if value is not None}
    if settings.get("top_k") == 0:
        del settings["top_k"]
    return SamplingConfig(**settings)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"model: its {path.name} is not JSON ({error}); copy the model's files again"
        ) from error
    return found
