"""Default sampling settings of a model: the paper's, else those of the model's own files.

Sec. 4.1 calls the latter the "model's other defaults".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erpd_core.config import SamplingConfig

EVALUATION = {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 1024}
"""Settings of Sec. 4.1, except the length limit in tokens, which is ours for a first look.

The paper's limits of 65,536 to 192,000 tokens per response take much GPU time.
"""
FAMILIES: dict[str, dict[str, Any]] = {"qwen3_5": {"temperature": 1.0, "presence_penalty": 1.5}}
"""Beginning of `model_type` in config.json -> settings in which that family differs.

From Sec. 4.1 and the model's card.
"""
OWN = ("top_k",)
"""Keys taken from the model's generation_config.json.

Temperature and top-p are the paper's for every model.
"""


def evaluation_sampling(folder: Path, given: Mapping[str, Any]) -> SamplingConfig:
    """Sampling settings for an evaluation of the model in `folder`.

    **Arguments:**
        given: Settings that take precedence unless None. A `top_k` of 0 turns off the model's own.
    **Raises:** ValueError (pydantic's ValidationError) for values that sampling cannot have.
    """
    kind = str(_read(folder / "config.json").get("model_type", ""))
    settings: dict[str, Any] = dict(EVALUATION)
    for family, overrides in FAMILIES.items():
        if kind.startswith(family):
            settings |= overrides
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
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"model: its {path.name} is not JSON ({error}); copy the model's files again"
        ) from error
    return content
