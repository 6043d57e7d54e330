"""Garbage collection: kept artifacts never lose their inputs, whatever happens; the rest goes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gc_lab import DAY, Busy, Lab
from helpers import python

from flows.inspect.gc import clean
from tasks.store.gc import Claims, collect, plan
from tasks.store.inventory import Item, take_inventory
from tasks.store.manifest import MANIFEST


@pytest.fixture
def lab(tmp_path: Path, registry_url: str) -> Iterator[Lab]:
    """A lab, once on SQLite and once on PostgreSQL."""
    lab = Lab(tmp_path, registry_url)
    yield lab
    lab.registry.close()


# ------------------------------------------------------------------------------------- what is kept


def test_why_something_stays_is_said(lab: Lab):
    base = lab.make("base")
    old, student = lab.make("old", base), ""
    student = lab.make("student", old)
    fresh = lab.make("fresh", lab.make("its input"), days=2)
    stray = lab.make("stray", base)
    for artifact in (base, old, student):
        lab.record(artifact)
    lab.campaign("night", student)
    planned = lab.plan()
    why = {kept.item.id: kept.why for kept in planned.stays if kept.item.what == "artifact"}
    assert [item.id for item in planned.goes] == [stray]
    assert (
        why[student] == "night:1.student" and why[old] == why[base] == "needed by night:1.student"
    )
    assert why[fresh] == "used recently"
    (needed,) = lab.store.manifest(fresh).inputs.values()
    assert why[needed] == f"needed by {fresh}, used recently"


def test_everything_used_since_a_running_campaign_began_stays(lab: Lab):
    """Artifacts that its stages made or found may be all it has, and are not attached yet."""
    before, found = lab.make("before", days=0.1), lab.make("found", days=0.1)
    lab.campaign("running", status="running")
    made = lab.make("made", days=0)
    assert lab.store.has(found)
    assert lab.collect(days=0) == {before}
    assert lab.there() == {found, made}
    lab.registry.campaign_finished("running")
    time.sleep(0.01)
    assert lab.collect(days=0) == {found, made}


def test_what_is_being_made_keeps_what_it_is_made_from_and_all_used_since_it_began(lab: Lab):
    base, other, idle = lab.make("base"), lab.make("other"), lab.make("idle", days=1)
    with lab.store.build("thing", {"name": "long"}, {"from": base}, 1) as build:
        assert build is not None
        build.put("half", lambda path: path.write_text("half"))
        made, found = lab.make("made meanwhile", days=0), lab.make("found meanwhile", days=1)
        assert lab.store.has(found)
        assert lab.collect(days=0) == {other, idle}
        assert lab.there() == {base, made, found}
        assert (build.folder / "half").exists()
        build.commit({})
    assert lab.store.has(build.id)


def left_build(lab: Lab, name: str, *made_from: str, days: float) -> str:
    """A build that was killed `days` ago; returns its identity."""
    with (
        pytest.raises(RuntimeError, match="killed"),
        lab.store.build(
            "training", {"name": name}, {str(n): parent for n, parent in enumerate(made_from)}, 1
        ) as build,
    ):
        assert build is not None
        build.put("checkpoint", lambda path: path.write_text("state"))
        raise RuntimeError("killed")
    moment = time.time() - days * DAY
    for path in (
        *build.folder.rglob("*"),
        build.folder,
        *(lab.store.root / "locks").glob(f"{build.id}.*"),
    ):
        os.utime(path, (moment, moment))
    return build.id


def test_builds_that_were_left_go_when_they_are_old_and_no_unfinished_campaign_goes_on_with_them(
    lab: Lab,
):
    base, held = lab.make("base"), lab.make("held")
    lab.record(held)
    lab.campaign("killed", held, status="killed")
    young, old = left_build(lab, "young", base, days=2), left_build(lab, "old", base, days=9)
    wanted = left_build(lab, "wanted", held, days=9)
    kept_so_far = lab.make("policy of step 10", wanted, kind="policy")
    stray = lab.make("policy of another run", old, kind="policy")

    planned = lab.plan()
    assert {kept.item.id: kept.why for kept in planned.stays if kept.item.what == "build"} == {
        young: "used recently",
        wanted: "killed will resume it",
    }
    assert lab.collect() == {old, stray}
    partial = lab.store.root / "partial"
    assert {path.name for path in partial.iterdir()} == {young, wanted} and (
        partial / wanted / "checkpoint"
    ).exists()
    assert lab.there() == {base, held, kept_so_far}

    lab.registry.campaign_finished("killed")
    assert lab.collect() == {wanted, kept_so_far}
    assert lab.there() == {base, held}, "the young build needs the base"


def test_damaged_copies_scratch_and_locks_of_nothing_go_when_they_are_old(lab: Lab):
    damaged, present = lab.make("damaged"), lab.make("present", days=0)
    (lab.store.path(damaged) / "bytes").write_text("other")
    assert not lab.store.has(damaged)
    scratch = lab.store.root / "fetched" / f"{present}.0123abcd"
    scratch.mkdir(parents=True)
    assert lab.collect() == set(), "everything is new"

    moment = time.time() - 9 * DAY
    (set_aside,) = (lab.store.root / "damaged").iterdir()
    for path in (set_aside, *set_aside.iterdir(), scratch, *(lab.store.root / "locks").iterdir()):
        os.utime(path, (moment, moment))
    planned = lab.plan()
    assert sorted(item.what for item in planned.goes) == ["damaged", "fetched", "lock"]
    assert {item.id for item in planned.goes if item.what == "lock"} == {damaged}, (
        "the lock of a stored artifact stays"
    )
    collect(lab.store, lab.registry, planned)
    assert not set_aside.exists() and not scratch.exists() and lab.whole(present)
    assert [path.stem for path in (lab.store.root / "locks").glob("thing-*")] == [present]


def test_what_is_not_the_stores_is_left_alone(lab: Lab):
    foreign = [
        lab.store.root / "notes.txt",
        lab.store.root / "thing" / "my copy" / "x",
        lab.store.root / "mine" / "y",
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        os.utime(path, (1, 1))
        os.utime(path.parent, (1, 1))
    assert lab.collect(days=0) == set()
    assert all(path.exists() for path in foreign)


def test_a_file_of_several_artifacts_counts_once(lab: Lab):
    one, other = lab.make("one"), lab.make("other")
    (lab.store.path(other) / "bytes").unlink()
    os.link(lab.store.path(one) / "bytes", lab.store.path(other) / "bytes")
    sizes = {item.id: item.size for item in take_inventory(lab.store) if item.what == "artifact"}
    manifests = sum((lab.store.path(name) / MANIFEST).stat().st_size for name in (one, other))
    assert sizes[one] + sizes[other] == manifests + len("one" * 100)


# --------------------------------------------------------------------------------------- forgetting


def test_a_forgotten_campaign_lets_go_of_what_no_other_needs(lab: Lab):
    base = lab.make("base")
    mine, theirs = lab.make("mine", base), lab.make("theirs", base)
    for artifact in (base, mine, theirs):
        lab.record(artifact)
    lab.campaign("mine", mine), lab.campaign("theirs", theirs)
    before = contents(lab.home)
    would = clean(lab.registry, lab.store, ["mine"], 7.0, dry_run=True)
    assert would.forgotten == ("mine",) and [item.id for item in would.went] == [mine]
    assert contents(lab.home) == before and lab.registry.campaign("mine").forgotten_at is None

    done = clean(lab.registry, lab.store, ["mine"], 7.0, dry_run=False)
    assert [item.id for item in done.went] == [mine] and lab.there() == {base, theirs}
    assert lab.registry.campaign("mine").forgotten_at is not None
    assert lab.registry.artifact(mine).removed_at is not None

    lab.registry.campaign_started("mine", "mine", "tiny", {})  # run again, it remakes what went
    assert lab.make("mine", base) == mine
    lab.record(mine)
    lab.registry.campaign_finished("mine")
    assert lab.collect() == set() and lab.registry.artifact(mine).removed_at is None


def test_a_campaign_at_work_is_not_forgotten_and_a_silent_one_is(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ERPD_HOME", str(lab.home))
    lab.campaign("running", status="running")
    with pytest.raises(ValueError, match="running is running; stop it"):
        clean(lab.registry, lab.store, ["running"], 7.0, dry_run=False)
    assert lab.registry.campaign("running").forgotten_at is None
    events = lab.home / "logs" / "running.events.jsonl"
    events.parent.mkdir()
    events.touch()
    os.utime(events, (time.time() - 2 * DAY,) * 2)
    clean(lab.registry, lab.store, ["running"], 7.0, dry_run=False)
    assert lab.registry.campaign("running").forgotten_at is not None
    with pytest.raises(LookupError, match="no campaign 'ghost'"):
        clean(lab.registry, lab.store, ["ghost"], 7.0, dry_run=True)


# ------------------------------------------------------------------------------ carrying out a plan


def contents(home: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and modification time of every file of the store."""
    paths = [path for path in (home / "store").rglob("*") if path.is_file()]
    return {
        str(path.relative_to(home)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths
    }


def test_a_dry_run_changes_nothing(lab: Lab):
    stray = lab.make("stray", lab.make("base"))
    left_build(lab, "old", stray, days=9)
    lab.record(lab.make("held"))
    before, folders = contents(lab.home), {path for path in lab.home.rglob("*") if path.is_dir()}
    would = clean(lab.registry, lab.store, [], 7.0, dry_run=True)
    assert len(would.went) == 5  # three artifacts, the build, its lock
    assert (
        contents(lab.home) == before
        and {path for path in lab.home.rglob("*") if path.is_dir()} == folders
    )
    assert clean(lab.registry, lab.store, [], 7.0, dry_run=False).went == would.went
    assert lab.there() == set()


KILLED = """
import os, shutil, sys
from pathlib import Path
from tasks.store.gc import Claims, collect, plan
from tasks.store.inventory import take_inventory
from tasks.registry import Registry
from tasks.store import Store
import time

home = Path(sys.argv[1])
shutil.rmtree = lambda path: os._exit(9)
store, registry = Store(home / "store"), Registry(sys.argv[2])
collect(store, registry, plan(take_inventory(store), Claims.of(registry), time.time()))
"""


def test_a_kill_before_what_was_moved_is_removed_leaves_the_store_whole(lab: Lab):
    base = lab.make("base")
    kept, strays = lab.make("kept", base), [lab.make("stray", base), lab.make("another", base)]
    for artifact in (base, kept, *strays):
        lab.record(artifact)
    lab.campaign("c", kept)
    assert python(KILLED, lab.home, lab.url, home=lab.home).returncode == 9
    trash = lab.store.root / "trash"
    assert len(list(trash.iterdir())) == 2 and lab.there() == {base, kept} and lab.whole(base, kept)
    assert not any(lab.store.has(artifact) for artifact in strays), "whole or absent"

    assert lab.make("stray", base) == strays[0], "it can be remade meanwhile"
    lab.age(strays[0], 0)
    assert {item.what for item in lab.plan().goes} == {"trash"}
    lab.collect()
    assert list(trash.iterdir()) == [] and lab.there() == {base, kept, strays[0]}
    assert [lab.registry.artifact(artifact).removed_at is None for artifact in strays] == [
        True,
        False,
    ]


def test_what_is_asked_for_between_the_last_look_and_the_move_is_put_back(lab: Lab):
    stray = lab.make("stray")
    lab.record(stray)
    done = collect(lab.store, Busy(lab.registry, 0, lambda: lab.store.has(stray)), lab.plan())
    assert [item.id for item in done.spared] == [stray] and done.went == ()
    assert lab.whole(stray) and lab.registry.artifact(stray).removed_at is None


def test_what_somebody_works_on_is_spared_with_what_it_is_made_from(lab: Lab):
    base = lab.make("base")
    stray = lab.make("stray", base)
    planned = lab.plan()
    shutil.rmtree(lab.store.path(stray))  # lost, and being remade while the plan is carried out
    with lab.store.build("thing", {"name": "stray"}, {"0": base}, 1) as build:
        assert build is not None and build.id == stray
        done = collect(lab.store, lab.registry, planned)
        assert {item.id for item in done.spared} == {stray, base} and lab.whole(base)


def test_two_collections_do_not_meet(lab: Lab):
    lab.make("stray")
    planned = lab.plan()
    again: list[str] = []

    def second() -> None:
        with pytest.raises(ValueError, match="another `erpd gc` is running"):
            collect(lab.store, lab.registry, planned)
        again.append("refused")

    assert len(collect(lab.store, Busy(lab.registry, 0, second), planned).went) == 1 and again == [
        "refused"
    ]


def test_an_artifact_that_was_used_is_young_again(lab: Lab):
    used, unused = lab.make("one"), lab.make("other")
    assert lab.store.has(used) and lab.store.has(used)
    lab.age(used, 30)
    assert lab.store.has(used), "its use is marked although this process has checked it"
    assert lab.collect() == {unused}
    assert not lab.store.has(unused)


def test_an_item_needs_nothing_to_be_planned():
    item = Item("artifact", "thing-1", Path("nowhere"), size=1, used=0.5)
    assert plan([item], Claims([], [], []), now=100 * DAY).goes == (item,)
