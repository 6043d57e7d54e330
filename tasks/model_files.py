"""Which files of a model directory are taken, and what they must be like: other people's checkpoints are data, and nothing of them runs.

Weights are safetensors, never pickles. Python code beside them is left behind, unless the recipe says by name whose code may run
(`model.trust_code`); then it goes into the store with the weights, and so does the name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.inside import checked_name, require_inside
from tasks.model_check import read_json, weights

PATTERNS = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja", "LICENSE*")
"""Files of a model that are taken: weights as safetensors, config, tokenizer, chat template. Nothing to unpickle or execute."""
CODE = "*.py"
"""Taken as well where the model's own code is trusted."""
TRUST = "erpd_trust.json"
"""Written beside the weights of a model whose own code may run. One that a directory brings along itself counts for nothing."""
LEFT = {"manifest.json", TRUST, "adapter_config.json"}
"""Never taken. An adapter's config would have another model loaded in place of this one."""
AXES = (
    *("hidden_size", "vocab_size", "intermediate_size", "moe_intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "num_experts", "num_local_experts", "n_embd", "n_head", "n_inner", "d_model", "ffn_dim"),
)
"""Sizes in a config.json that some axis of the weights is at least as long as."""
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")


def trusts_code(folder: Path) -> bool:
    """May the own code of the model in `folder`, a policy of the store, run?"""
    return (folder / TRUST).exists()


def model_files(folder: Path, trust: str | None = None) -> list[str]:
    """The names of the files to take from a model directory, each looked at. `trust` names the model whose code the recipe trusts.

    **Raises:** ValueError, in one line: something is missing, is a link out of the directory, is not what it says it is, or would have
    to run code.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"model: {folder} holds no config.json; give a Hugging Face model directory")
    patterns = (*PATTERNS, *([CODE] if trust else []))
    names = sorted({path.name for pattern in patterns for path in folder.glob(pattern) if path.is_file()} - LEFT)
    for name in names:
        checked_name(name, f"model: {folder}")
        require_inside(_bounds(folder), folder / name, f"model: {folder}")
    if not any(name.endswith(".safetensors") for name in names):
        raise ValueError(f"model: {folder} holds no .safetensors weights; pickled weights are never loaded, convert them first")
    if not {"tokenizer.json", "tokenizer.model", "vocab.json"} & set(names):
        raise ValueError(f"model: {folder} holds no tokenizer; copy the tokenizer files of the model beside its weights")
    configs = {name: read_json(folder, name) for name in names if name.endswith("config.json")}
    _check_code(folder, configs, trust)
    _check_sizes(folder, configs["config.json"], list(weights(folder).values()))
    return names


def _bounds(folder: Path) -> Path:
    """What links in a model directory may point into: itself, and in the hub's cache the files of that very repository."""
    return folder.parents[1] if folder.parent.name == "snapshots" else folder


def _check_code(folder: Path, trees: Mapping[str, Mapping[str, Any]], trust: str | None) -> None:
    """Refuse what cannot be loaded without running code that nobody named."""
    asking = [name for name, tree in trees.items() if tree.get("auto_map")]
    if not asking:
        return
    if trust is None:
        from tasks.hf import knows

        if not knows(str(trees["config.json"].get("model_type"))):
            raise ValueError(
                f"model: {folder} needs Python code of its own to run ({asking[0]}: auto_map), which never runs unasked;"
                " read it, then name the model once more in model.trust_code"
            )
    elif elsewhere := [text for name in asking for text in _texts(trees[name]["auto_map"]) if "--" in text]:
        raise ValueError(f"model: {folder} asks for code of another repository ({elsewhere[0][:80]!a}); only its own can be trusted")


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    for one in tree if isinstance(tree, list) else [tree]:
        yield from _texts(one) if isinstance(one, Mapping | list) else [str(one)]


def _check_sizes(folder: Path, config: Mapping[str, Any], shapes: Sequence[Sequence[int]]) -> None:
    """A config that asks for more than its weights fill would be gigabytes, or for ever, in the making."""
    longest = max((axis for shape in shapes for axis in shape), default=0)
    parts = [part for part in (config, config.get("text_config")) if isinstance(part, Mapping)]
    for part in parts:
        for bound, keys, has in ((longest, AXES, "longest axis"), (len(shapes), LAYERS, "number of tensors")):
            for key in keys:
                if isinstance(value := part.get(key), int | float) and value > bound:
                    raise ValueError(f"model: {folder}/config.json says {key} {value:g}, but the {has} of its weights is {bound}; mend it")
