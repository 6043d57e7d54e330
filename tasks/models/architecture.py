"""Whether two stored policies differ in nothing but their weights."""

from __future__ import annotations

import json
from pathlib import Path

PROVENANCE = {"_name_or_path", "transformers_version"}
"""Keys of a config that say where a model comes from, not what it is."""
NOT_COMPARED = {"manifest.json", "LICENSE", "README.md"}


def same_architecture(a: Path, b: Path) -> bool:
    """Whether the models in two folders have the same config, tokenizer and chat settings."""
    return _description(a) == _description(b)


def _description(folder: Path) -> dict[str, object]:
    """Name -> content of every file that is neither weights nor remarks."""
    return {
        path.name: _config(path) if path.name == "config.json" else path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and "safetensors" not in path.name and path.name not in NOT_COMPARED
    }


def _config(path: Path) -> dict[str, object]:
    return {
        key: value for key, value in json.loads(path.read_text()).items() if key not in PROVENANCE
    }
