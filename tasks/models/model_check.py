"""Checks a model directory before anything starts: config, weight headers and shapes, tokenizer.

Nothing is unpickled and no code of the model runs. Only the headers of the weights are read, so
the check takes seconds whatever their size.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.untrusted.input_files import parse_json, readable, short

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Where transformers looks for weights: in the single file, else in those of the index."""

LARGEST = 64 << 20
"""Maximum size of a model's JSON file, in bytes; the index of a thousand shards has a tenth."""
AGAIN = "copy the model's files again"
PARTS = 10_000
"""Modules and parameters that a model may have, however few its tensors are.

Each takes 0.1 ms and a few KB, even without its numbers.
"""
PARTS_A_TENSOR = 8
"""Modules and parameters that a model may have per tensor.

A Llama has 2.5. A mixture of experts has less than 1, because its files hold each expert
separately.
"""
MOST_PARTS = 400_000
BUFFERS = 256 << 20
"""Bytes of buffers that a model may compute while it is loaded, however small its weights.

Buffers are in no file: masks, tables of positions.
"""
BUFFERS_A_BYTE = 4

Shape = tuple[int, ...]


def check_model(folder: Path) -> None:
    """Check that a model can be loaded from `folder`.

    Compares the tensors that config.json calls for with those of the weights, by name and shape,
    and the tokenizer's ids with the model's output tokens.

    **Raises:** ValueError, in one line with the folder, the file and the remedy.
    """
    config = read_json(folder, "config.json")
    if (folder / "generation_config.json").exists():
        read_json(folder, "generation_config.json")
    held = weights(folder)
    with _quiet():
        model = _model(folder, config, len(held))
        _check_buffers(folder, model)
        _compare(folder, model, held)
        _check_tokenizer(folder, int(model.config.get_text_config().vocab_size))


def weights(folder: Path) -> dict[str, Shape]:
    """Name -> shape of every tensor in the folder's weights, from checked headers and lengths.

    **Raises:** ValueError for a bad file.
    """
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, Shape] = {}
    for name in weight_files(folder):
        try:
            with safe_open(readable(folder / name, "model:"), "numpy") as file:
                shapes |= {
                    tensor: tuple(file.get_slice(tensor).get_shape())
                    for tensor in file.keys()  # noqa: SIM118 (it is no mapping)
                }
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"model: {folder / name} is not a complete safetensors file ({short(error, 120)}); "
                f"{AGAIN}"
            ) from error
    return shapes


def weight_files(folder: Path) -> list[str]:
    """The files that the weights are loaded from.

    **Raises:** ValueError if the index names a file that is missing or outside the folder, or if it
        is unclear which files those are.
    """
    there = {path.name for path in folder.glob("*.safetensors")}
    if (folder / INDEX).exists():
        names = _indexed(folder, there)
        if SINGLE in there and names != [SINGLE]:
            raise ValueError(
                f"model: {folder / INDEX} names files other than {SINGLE} next to it; remove the "
                f"one that is not the model's"
            )
        return names
    if SINGLE not in there:
        raise ValueError(
            f"model: {folder} holds neither {SINGLE} nor {INDEX}, so no weights would be "
            f"loaded; {AGAIN}"
        )
    return [SINGLE]


def _indexed(folder: Path, there: set[str]) -> list[str]:
    listed = read_json(folder, INDEX).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise ValueError(
            f"model: {folder / INDEX}: weight_map is not a mapping of tensors to files; {AGAIN}"
        )
    names = sorted(set(listed.values()))
    if missing := [name for name in names if name not in there]:
        raise ValueError(
            f"model: {folder / INDEX} names {short(missing[0])}, which is not in {folder}; {AGAIN}"
        )
    return names


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of the model. Raises ValueError, in one line, if there is none."""
    path = readable(folder / name, "model:")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"model: {path} has more than {LARGEST >> 20} MiB; {AGAIN}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"model: {path}: not UTF-8 text; {AGAIN}") from error
    content = parse_json(text, f"model: {path}", AGAIN)
    if not isinstance(content, dict):
        raise ValueError(f"model: {path}: a {type(content).__name__}, not an object; {AGAIN}")
    return content


def _model(folder: Path, config: Mapping[str, Any], tensors: int) -> Any:
    """The model that config.json describes, without memory for its weights.

    **Raises:** ValueError for a kind that transformers does not know, and for a model with far more
        parts than the weights have tensors.
    """
    import torch

    from tasks.models.hf import AutoConfig, AutoModelForCausalLM

    where, kind = f"model: {folder / 'config.json'}", config.get("model_type")
    if not isinstance(kind, str):
        raise ValueError(f"{where}: no model_type; give the config.json of a Hugging Face model")
    try:
        read = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"), _at_most(min(max(PARTS, PARTS_A_TENSOR * tensors), MOST_PARTS)):
            return AutoModelForCausalLM.from_config(read, trust_remote_code=False)
    except Exception as error:  # each of a hundred kinds of config fails in its own way
        why = short(" ".join(f"{error}".split()), 160)
        raise ValueError(
            f"{where}: no causal language model of kind {short(kind, 40)!r} can be made of it "
            f"({why}); {AGAIN}"
        ) from error


@contextmanager
def _at_most(parts: int) -> Iterator[None]:
    """Within this context, building a model of more parts raises ValueError.

    Whichever key of its config requests them, building could take hours.
    """
    from torch.nn.modules import module

    made, thread = 0, threading.get_ident()  # other threads may build models too

    def count(*_: Any) -> None:
        nonlocal made
        made += threading.get_ident() == thread
        if made > parts:
            raise ValueError(f"it has more than {parts} parts, too many for its weights")

    hooks = [
        module.register_module_module_registration_hook(count),
        module.register_module_parameter_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_buffers(folder: Path, model: Any) -> None:
    """Refuse a model that would fill far more memory than its weights do, by a ValueError."""
    stored = model.state_dict().keys()
    needed = sum(buffer.nbytes for name, buffer in model.named_buffers() if name not in stored)
    most = max(
        BUFFERS,
        BUFFERS_A_BYTE * sum((folder / name).stat().st_size for name in weight_files(folder)),
    )
    if needed > most:
        raise ValueError(
            f"model: {folder}/config.json requests {needed >> 20} MiB besides the weights, but at "
            f"most {most >> 20} fit these weights; fix it"
        )


def _compare(folder: Path, model: Any, held: Mapping[str, Shape]) -> None:
    """Refuse weights that are missing or have other shapes, by a ValueError.

    Loading renames some weights, so missing names are accepted while the files have unknown ones.
    If they have none, or no name matches, the files are not this model's.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, shape in wanted.items():
        if name in held and held[name] != shape:
            raise ValueError(
                f"model: {folder}: {name} has shape {list(held[name])} in the weights and "
                f"{list(shape)} by config.json; {AGAIN}, all from one model"
            )
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    prefix = f"{model.base_model_prefix}."
    missing = [
        name
        for name in wanted
        if name not in tied and name not in held and name.removeprefix(prefix) not in held
    ]
    if missing and (not held.keys() - wanted.keys() or len(missing) == len(wanted) - len(tied)):
        raise ValueError(
            f"model: {folder}: its weights lack {len(missing)} of {len(wanted)} tensors "
            f"({missing[0]} is one); {AGAIN}"
        )


def _check_tokenizer(folder: Path, outputs: int) -> None:
    from tasks.models.hf import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        largest = max(tokenizer.get_vocab().values(), default=-1)
    except Exception as error:  # the tokenizers library raises Exception itself
        why = short(" ".join(f"{error}".split()), 160)
        raise ValueError(
            f"model: {folder}: its tokenizer cannot be loaded ({why}); copy the tokenizer files "
            f"of the model again"
        ) from error
    if not 0 <= largest < outputs:
        raise ValueError(
            f"model: {folder}: its tokenizer has ids up to {largest} and the model {outputs} "
            f"tokens; use this model's own tokenizer"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' warnings: the checks here report every fault in one line."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
