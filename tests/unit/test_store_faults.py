"""Bytes that a disk lost or changed are detected on reading, named, and remade.

A file is whole or absent.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, World, context, environment, flip_a_bit

from tasks.execution.stage import get_or_compute
from tasks.rollouts import SampleRollouts
from tasks.rollouts.score import ScoreRollouts
from tasks.store import SIDE, Store
from tasks.store.manifest import MANIFEST, Manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def make(store: Store) -> str:
    with store.build("thing", {"a": [1, 2.5, None]}, {"from": "x-1"}, 1) as build:
        assert build is not None
        build.put("one.bin", lambda path: path.write_bytes(bytes(1000)))
        build.commit({"ref": {"accuracy": 0.25, "unbounded": float("inf")}})
    return build.id


# ---------------------------------------------------------------------------------------- manifests


def test_no_flipped_bit_of_a_manifest_is_believed(store: Store):
    """Figures in a manifest are results, so a changed digit must not pass for one."""
    artifact = make(store)
    path = store.path(artifact) / MANIFEST
    sound, content = path.read_bytes(), store.manifest(artifact).model_dump(exclude={"checksum"})
    detected = 0
    for at in range(len(sound)):
        harmed = bytearray(sound)
        harmed[at] ^= 1 << at % 7
        path.write_bytes(harmed)
        if store.damage(artifact):
            detected += 1
        else:  # for example, a letter of the key `checksum` itself: the content is unchanged
            assert store.manifest(artifact).model_dump(exclude={"checksum"}) == content, harmed
    assert detected > 0.95 * len(sound)


def test_a_manifest_from_before_checksums_is_read(store: Store):
    artifact = make(store)
    path = store.path(artifact) / MANIFEST
    old = json.loads(path.read_bytes())
    assert len(old.pop("checksum")) == 64
    path.write_text(json.dumps(old))
    assert store.has(artifact) and Manifest.read(path.parent).checksum == ""


def test_what_is_set_aside_is_said_in_one_line(store: Store, caplog: pytest.LogCaptureFixture):
    artifact = make(store)
    flip_a_bit(store.path(artifact) / "one.bin")
    with caplog.at_level(logging.WARNING, "erpd"):
        assert not Store(store.root).has(artifact)
    (message,) = [record.getMessage() for record in caplog.records if record.name == "erpd"]
    assert message.startswith(
        f"{artifact}: one.bin does not match its manifest; it is set aside as "
    )
    assert "\n" not in message


@pytest.mark.parametrize("beside", ["one.bin" + SIDE, ".seconds"])
@pytest.mark.parametrize("harm", [b"", b"\xff\xfe", b"nonsense"])
def test_a_build_whose_notes_are_damaged_goes_on(store: Store, beside: str, harm: bytes):
    with pytest.raises(RuntimeError), store.build("thing", {"a": 1}, {}, 1) as build:
        assert build is not None
        build.put("one.bin", lambda path: path.write_bytes(b"1"))
        raise RuntimeError("killed")
    (build.folder / beside).write_bytes(harm)
    with store.build("thing", {"a": 1}, {}, 1) as build:
        assert build is not None
        if not build.done("one.bin"):
            build.put("one.bin", lambda path: path.write_bytes(b"1"))
        build.commit({})
    assert store.damage(build.id) is None and store.manifest(build.id).seconds >= 0


# --------------------------------------------------------------------------------- never trained on


def copied(world: World, folder: Path) -> Store:
    shutil.copytree(world.store.root, folder / "store")
    return Store(folder / "store")


def test_a_damaged_batch_is_named_not_read_and_sampled_again_to_the_same_bytes(
    world: World, tmp_path: Path
):
    store = copied(world, tmp_path)
    shards = sorted(store.path(world.rollouts.id).glob("*.parquet"))
    before = [path.read_bytes() for path in shards]
    os.truncate(shards[1], len(before[1]) // 2)
    store.discard(world.old.id)
    scoring = ScoreRollouts(policy=world.base, rollouts=world.rollouts)
    with pytest.raises(
        LookupError,
        match=f"its rollouts, {world.rollouts.id}, is missing or was damaged; run the same "
        f"command again",
    ):
        get_or_compute(scoring, context(store))
    (damaged,) = (store.root / "damaged").iterdir()
    assert "shard-00001.parquet does not match its manifest" in (damaged / "damage.txt").read_text()

    manifest = world.store.manifest(world.rollouts.id)
    sampling = manifest.spec["sampling"]
    again = SampleRollouts(
        policy=world.base,
        problems=world.problems,
        sampling=sampling,
        seed=manifest.spec["seed"],
    )
    assert get_or_compute(again, context(store)) == world.rollouts
    assert [path.read_bytes() for path in shards] == before
    assert get_or_compute(scoring, context(store)) == world.old


# ---------------------------------------------------------------------------------- whole or absent

WRITING = """
import sys
from pathlib import Path
from tasks.store import Store

with Store(Path(sys.argv[1])).build("thing", {"a": 1}, {}, 1) as build:
    print("ready", flush=True)
    for generation in range(1, 256):
        build.put("resume.safetensors", lambda path: path.write_bytes(bytes([generation]) * 4_000_000))
"""  # noqa: E501


@pytest.mark.slow
def test_a_checkpoint_killed_at_any_instant_is_the_old_one_the_new_one_or_none(tmp_path: Path):
    """Each writer is killed at a random moment while it overwrites its predecessor's file."""
    store, chance = Store(tmp_path / "store"), random.Random(0)
    for _ in range(5):
        command = [sys.executable, "-c", WRITING, str(store.root)]
        writer = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment(tmp_path), cwd=ROOT
        )
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 0.2))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        with store.build("thing", {"a": 1}, {}, 1) as build:
            assert build is not None, "nothing was committed"
            if build.done("resume.safetensors"):
                content = (build.folder / "resume.safetensors").read_bytes()
                assert len(content) == 4_000_000 and len(set(content)) == 1
            assert not [path for path in build.folder.rglob("*.tmp")]
    assert store.artifacts("thing") == []
