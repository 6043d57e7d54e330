"""Digests of files: read once for each state of a file, and never stale."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from flows.recipes.load import load_recipe
from flows.recipes.studies import Arm, Study
from flows.steps.preflight import prepare_study, study_campaigns
from tasks.host.file_digest import SETTLED_NS, file_digest
from tasks.models.import_policy import ASSETS
from tasks.models.policy import vocabulary

BASE = ASSETS / "tiny-base"


def bytes_read() -> int:
    """Bytes that this process has read from files, as the kernel counts them."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def settle(*paths: Path) -> None:
    """Wait until the last change of each file is old enough for its digest to be cached."""
    changed = max(max(path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in paths)
    time.sleep(max(0.0, (changed + SETTLED_NS - time.time_ns()) / 1e9) + 0.05)


def test_a_file_is_read_once(tmp_path: Path):
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(4_000_000))
    link = tmp_path / "link"
    link.symlink_to(path)
    settle(path)
    expected = sha256(path)
    before = bytes_read()
    assert [file_digest(path), file_digest(link), file_digest(path)] == [expected] * 3
    assert 4_000_000 <= bytes_read() - before < 4_100_000


@pytest.mark.parametrize("way", ["written over", "replaced", "appended"])
def test_a_change_is_noticed_though_size_and_time_look_the_same(tmp_path: Path, way: str):
    path = tmp_path / "weights"
    path.write_bytes(b"a" * 1000)
    settle(path)
    old, stat = file_digest(path), path.stat()
    if way == "written over":
        path.write_bytes(b"b" * 1000)
    elif way == "replaced":
        (tmp_path / "new").write_bytes(b"b" * 1000)
        (tmp_path / "new").replace(path)
    else:
        with path.open("ab") as file:
            file.write(b"b")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_digest(path) == sha256(path) != old


def test_changes_faster_than_the_file_systems_clock_are_noticed(tmp_path: Path):
    path = tmp_path / "weights"
    for number in range(300):
        path.write_bytes(number.to_bytes(4, "big") * 10)
        assert file_digest(path) == sha256(path)


def model_folder(folder: Path) -> int:
    """Save a loadable model of about 20 MB; returns its size in bytes."""
    config = LlamaConfig(
        vocab_size=vocabulary(BASE),
        hidden_size=256,
        intermediate_size=4096,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for path in BASE.iterdir():
        if path.name.startswith("tokenizer") or path.name == "special_tokens_map.json":
            shutil.copyfile(path, folder / path.name)
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.slow
def test_a_study_reads_the_model_once_however_many_arms_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ERPD_HOME", str(tmp_path / "home"))
    folder = tmp_path / "model"
    size = model_folder(folder)
    settle(*folder.iterdir())
    model = f"model={{kind: directory, path: {folder}}}"
    arms = tuple(
        Arm(
            name=f"seed{seed}",
            config=load_recipe("tiny", [model, f"seed={seed}", "runtime.ray=off"]),
            rows={},
        )
        for seed in range(8)
    )
    study = Study(name="s", description="", scale="tiny", paper=None, pictures=(), arms=arms)
    before = bytes_read()
    prepared = prepare_study(study)
    assert size <= bytes_read() - before < 1.5 * size
    assert study_campaigns(study) == prepared.campaigns
    assert len(set(prepared.campaigns.values())) == 8
    assert bytes_read() - before < 1.6 * size
