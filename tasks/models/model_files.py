"""Selects the files of a model directory to import, and checks them.

Other people's checkpoints are data: nothing in them runs. Weights are safetensors, never pickles.
Python code next to them is left out unless the recipe names the model whose code may run
(`model.trust_code`). In that case the code and the name go into the store with the weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.models.model_check import INDEX, read_json, weight_files, weights
from tasks.untrusted.input_files import short
from tasks.untrusted.paths import checked_name, require_inside

PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.model",
    "*.txt",
    "*.jinja",
    "LICENSE*",
)
"""Files of a model to import: weights as safetensors, config, tokenizer, chat template.

None of them is unpickled or executed.
"""
CODE = "*.py"
"""Imported too if the model's own code is trusted."""
TRUST = "erpd_trust.json"
"""File written next to the weights of a model whose own code may run.

One that comes with a model directory is ignored.
"""
LEFT = {"manifest.json", TRUST, "adapter_config.json"}
"""Files never imported. With an adapter's config, transformers would load another model."""
AXES = (
    *(
        "hidden_size",
        "vocab_size",
        "intermediate_size",
        "moe_intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
    ),
    *(
        "head_dim",
        "num_experts",
        "num_local_experts",
        "n_embd",
        "n_head",
        "n_inner",
        "d_model",
        "ffn_dim",
    ),
)
"""Keys of config.json whose value cannot exceed the longest axis of the weights."""
LAYERS = re.compile(r"layers|(^|_)n_layer$|attention_types|repeats|(^|_)depths?$")
"""Keys of config.json that give the number of layers, or the layers of each kind."""
MOST_LAYERS = 1000
BEYOND = {"max_window_layers"}
"""Keys that may give more layers than the model has."""
LARGE = re.compile(
    r"position|token|vocab|theta$|_base$|length|seq|context|ctx|window|chunk|seed|pixel|sample"
)
"""Keys of config.json whose number may be of any size: lengths, ids and the like.

Nothing is created that many times.
"""
LARGEST_NUMBER = 1 << 18
"""Limit for any other key. The largest in use are widths of 73,728 (Nemotron 4 340B)."""
ASIDE = {"transformers_weights", "configuration_files", "attribute_map"}
"""Keys of config.json that make transformers read files or keys that are not checked here."""


def trusts_code(folder: Path) -> bool:
    """Whether the own code of the model in `folder`, a policy of the store, may run."""
    return (folder / TRUST).exists()


def model_files(folder: Path, trust: str | None = None) -> list[str]:
    """Check a model directory and return the names of the files to import.

    Weights that loading would ignore, such as a `consolidated.safetensors` next to those of the
    index, are left out.

    **Arguments:**
        trust: Name of the model whose code the recipe trusts.
    **Raises:** ValueError, in one line, if a file is missing, links out of the directory, is not
        what its name says, or would have to run code.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"model: {folder} holds no config.json; give a Hugging Face model directory"
        )
    patterns = (*PATTERNS, *([CODE] if trust else []))
    names = sorted(
        {path.name for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
        - LEFT
    )
    for name in names:
        checked_name(name, f"model: {folder}")
        require_inside(_bounds(folder), folder / name, f"model: {folder}")
    if not any(name.endswith(".safetensors") for name in names):
        raise ValueError(
            f"model: {folder} holds no .safetensors weights; pickled weights are never loaded, "
            f"convert them first"
        )
    if not {"tokenizer.json", "tokenizer.model", "vocab.json"} & set(names):
        raise ValueError(
            f"model: {folder} holds no tokenizer; copy the tokenizer files of the model next to "
            f"its weights"
        )
    loaded = {INDEX, *weight_files(folder)}
    names = [
        name
        for name in names
        if not name.endswith((".safetensors", ".safetensors.index.json")) or name in loaded
    ]
    configs = {name: read_json(folder, name) for name in names if name.endswith("config.json")}
    _check_code(folder, configs, trust)
    _check_sizes(folder, configs["config.json"], list(weights(folder).values()))
    return names


def _bounds(folder: Path) -> Path:
    """The folder into which links of a model directory may point.

    This is the directory itself, or in the hub's cache the folder of the same repository.
    """
    return folder.parents[1] if folder.parent.name == "snapshots" else folder


def _check_code(folder: Path, trees: Mapping[str, Mapping[str, Any]], trust: str | None) -> None:
    """Refuse a model that cannot be loaded without running code that the recipe does not trust."""
    asking = [name for name, tree in trees.items() if tree.get("auto_map")]
    if not asking:
        return
    if trust is None:
        from tasks.models.hf import knows

        if not knows(str(trees["config.json"].get("model_type"))):
            raise ValueError(
                f"model: {folder} needs Python code of its own to run ({asking[0]}: auto_map), "
                f"which never runs without permission;"
                " read it, then repeat the model's name in model.trust_code"
            )
    elif elsewhere := [
        text
        for name in asking
        for _, text in _entries(trees[name]["auto_map"])
        if isinstance(text, str) and "--" in text
    ]:
        raise ValueError(
            f"model: {folder} asks for code of another repository ({elsewhere[0][:80]!a}); only "
            f"its own can be trusted"
        )


def _entries(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every value in a JSON tree with its key; items of a list have the list's key.

    Not recursive, because a file may be nested a thousand levels deep.
    """
    waiting = [("", tree)]
    while waiting:
        key, value = waiting.pop()
        yield key, value
        if isinstance(value, Mapping):
            waiting.extend(value.items())
        elif isinstance(value, list):
            waiting.extend((key, item) for item in value)


def _check_sizes(folder: Path, config: Mapping[str, Any], shapes: Sequence[Sequence[int]]) -> None:
    """Refuse a config that describes a larger model than its weights fill.

    Building that model could take gigabytes, or never end.
    """
    _check_numbers(folder, config)
    longest = max((axis for shape in shapes if all(shape) for axis in shape), default=0)
    for part in (part for part in (config, config.get("text_config")) if isinstance(part, Mapping)):
        layers = [key for key in part if LAYERS.search(key) and key not in BEYOND]
        for bound, keys, has in (
            (longest, AXES, "longest axis"),
            (len(shapes), layers, "number of tensors"),
        ):
            for key in keys:
                if isinstance(value := part.get(key), int | float) and value > bound:
                    raise ValueError(
                        _too_large(folder, key, value, f"the {has} of its weights is {bound}")
                    )


def _check_numbers(folder: Path, config: Mapping[str, Any]) -> None:
    """Check every number in the config, at any depth.

    transformers builds lists from some of them before it builds a model.
    """
    for key, value in _entries(config):
        if key in ASIDE and value:
            raise ValueError(
                f"model: {folder}/config.json: {key} leads to what is not checked; remove it"
            )
        number = _repeated(value) if key == "attention_types" and isinstance(value, list) else value
        if not isinstance(number, int):
            continue
        if LAYERS.search(key) and number > MOST_LAYERS:
            raise ValueError(
                _too_large(folder, key, number, f"no model has more than {MOST_LAYERS} layers")
            )
        if number > LARGEST_NUMBER and not LARGE.search(key):
            raise ValueError(
                _too_large(folder, key, number, f"no such number is above {LARGEST_NUMBER}")
            )


def _repeated(types: Sequence[Any]) -> int:
    """Number of layers in GPT-Neo's attention types: `[[["global", "local"], 12]]` are 24."""
    pairs = [
        pair
        for pair in types
        if isinstance(pair, list) and len(pair) > 1 and isinstance(pair[1], int)
    ]
    return sum(
        max(1, len(kinds) if isinstance(kinds, list | str | dict) else 1) * max(0, times)
        for kinds, times, *_ in pairs
    )


def _too_large(folder: Path, key: str, value: float, but: str) -> str:
    return f"model: {folder}/config.json says {short(key)} {min(value, 1e99):g}, but {but}; fix it"
