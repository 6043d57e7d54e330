"""A disk that is full, read-only or forbidden: one line names the folder and the remedy.

Once there is room, the same spec ends in the same result.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from disks import Disk, small_disk
from helpers import World, context, python
from safetensors import SafetensorError

from erpd_core.config import CE, TrainConfig
from tasks.execution.stage import Stage, get_or_compute
from tasks.host.disk_faults import describe_disk_fault
from tasks.registry import Registry
from tasks.rollouts import SampleRollouts
from tasks.store import Build, Store
from tasks.training.teacher import TrainTeacher


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The home, on its own small disk."""
    with small_disk(tmp_path / "home", "48m") as disk:
        monkeypatch.setenv("ERPD_HOME", str(disk.path))
        yield disk


def full_at(monkeypatch: pytest.MonkeyPatch, disk: Disk, name: str, number: int = 1) -> None:
    """Fill the disk when the file `name` is about to be put for the `number`-th time."""
    put, count = Build.put, 0

    def filling(self: Build, what: str, write: Callable[[Path], object]) -> None:
        nonlocal count
        count += what == name
        if what == name and count == number:
            disk.fill()
        put(self, what, write)

    monkeypatch.setattr(Build, "put", filling)


def copied(world: World, disk: Disk, without: str = "") -> Store:
    store = Store(disk.path / "store")
    for artifact in {world.base.id, world.problems.id, world.rollouts.id, world.old.id} - {without}:
        shutil.copytree(world.store.path(artifact), store.path(artifact))
    return store


def test_a_file_that_found_no_room_leaves_nothing_and_what_was_done_before_it_stays(disk: Disk):
    store = Store(disk.path / "store")
    with pytest.raises(OSError) as full, store.build("thing", {"a": 1}, {}, 1) as build:
        assert build is not None
        build.put("one.bin", lambda path: path.write_bytes(b"1"))
        disk.fill()
        build.put("two.bin", lambda path: path.write_bytes(bytes(100_000)))
    assert describe_disk_fault(full.value) == f"{disk.path} is full; make room there"
    disk.make_room()
    with store.build("thing", {"a": 1}, {}, 1) as build:
        assert build is not None and build.done("one.bin") and not build.done("two.bin")
        assert sorted(path.name for path in build.folder.iterdir()) == [
            ".seconds",
            "one.bin",
            "one.bin.sum",
        ]


STAGES: dict[str, tuple[Callable[[World], Stage[Any]], str, int]] = {
    "rollouts": (
        lambda world: SampleRollouts(
            policy=world.base,
            problems=world.problems,
            sampling=world.store.manifest(world.rollouts.id).spec["sampling"],
            seed=7,
        ),
        "shard-00001.parquet",
        1,
    ),
    "checkpoint": (
        lambda world: TrainTeacher(
            config=TrainConfig(loss=CE(beta=0.05), steps=3, minibatch=32),
            init=world.base,
            rollouts=world.rollouts,
            old=world.old,
            role="teacher",
            seed=0,
        ),
        "resume.safetensors",
        2,
    ),
}


@pytest.mark.parametrize("what", STAGES)
def test_a_stage_that_found_no_room_ends_equal_when_there_is(
    world: World, disk: Disk, monkeypatch: pytest.MonkeyPatch, what: str
):
    make, name, number = STAGES[what]
    stage = make(world)
    undisturbed = get_or_compute(stage, world.context)
    store = copied(world, disk, without=undisturbed.id)
    full_at(monkeypatch, disk, name, number)
    with pytest.raises((OSError, SafetensorError)) as full:
        get_or_compute(stage, context(store, checkpoint_every=1))
    assert describe_disk_fault(full.value) == f"{disk.path} is full; make room there"
    assert not store.path(undisturbed.id).exists()
    disk.make_room()
    again = Store(store.root)
    assert get_or_compute(stage, context(again, checkpoint_every=1)) == undisturbed
    for artifact in (undisturbed.id, *(policy.id for policy in getattr(undisturbed, "trail", ()))):
        ours, theirs = again.manifest(artifact).files, world.store.manifest(artifact).files
        assert {name: file for name, file in ours.items() if name != "records.jsonl"} == {
            # records.jsonl holds times
            name: file
            for name, file in theirs.items()
            if name != "records.jsonl"
        }


def test_a_registry_that_found_no_room_has_all_it_was_told_before(disk: Disk):
    registry = Registry(f"sqlite:///{disk.path}/registry.db")
    registry.campaign_started("c-1", "demo", "tiny", {})
    disk.fill()
    with pytest.raises(Exception) as full:
        for number in range(1000):
            registry.record_artifact(f"policy-{number}", "policy", {"text": "x" * 1000})
    assert describe_disk_fault(full.value) == f"{disk.path} is full; make room there"
    disk.make_room()
    registry.record_artifact("policy-last", "policy", {})
    registry.check()
    assert registry.campaign("c-1").status == "running"
    assert all(registry.artifact(f"policy-{before}") for before in range(number)), (
        "every accepted write is there"
    )
    registry.close()


def test_a_folder_on_a_disk_of_its_own_is_named(disk: Disk):
    """The home has room, its store has none."""
    with small_disk(disk.path / "store", "1m") as small:
        small.fill()
        with pytest.raises(OSError) as full:
            (small.path / "more").write_bytes(b"1")
        assert describe_disk_fault(full.value) == f"{small.path} is full; make room there"


def test_a_disk_that_may_only_be_read(disk: Disk):
    store = Store(disk.path / "store")
    disk.remount("ro")
    try:
        with pytest.raises(OSError) as refused, store.build("thing", {"a": 1}, {}, 1):
            raise AssertionError("the build began")
    finally:
        disk.remount("rw")
    assert (
        describe_disk_fault(refused.value)
        == f"{disk.path}/store is read-only; make it writable, or set ERPD_HOME to another folder"
    )


FORBIDDEN = """
import os, sys
from pathlib import Path
from tasks.host.disk_faults import describe_disk_fault
from tasks.store import Store

if os.geteuid() == 0:
    os.seteuid(65534)
try:
    with Store(Path(sys.argv[1])).build("thing", {"a": 1}, {}, 1):
        print("it began")
except OSError as error:
    print(describe_disk_fault(error))
"""


def test_a_folder_that_another_user_owns(tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    for folder in [*tmp_path.parents, tmp_path]:
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o555)
    home.chmod(0o555)
    done = python(FORBIDDEN, home / "store", home=home)
    expected = (
        f"{home}/store cannot be read or written by this user; change its permissions, "
        f"or set ERPD_HOME to another folder"
    )
    assert done.stdout == expected + "\n", done.stderr


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            ),
            "is full",
        ),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), "is full"),
        (OSError(errno.EIO, "Input/output error"), "is on a failing disk"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files open"),
        (ValueError("something else"), None),
        (RuntimeError("API request to http://host/api failed: database or disk is full"), None),
    ],
)
def test_what_libraries_say_of_faults(error: Exception, words: str | None):
    try:
        raise RuntimeError("a flow failed") from error
    except RuntimeError as outer:
        description = describe_disk_fault(outer)
    assert (
        (description is None)
        if words is None
        else (description is not None and words in description)
    )
