"""The store: artifacts are whole or absent, found by spec, never silently damaged, made once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from helpers import ROOT, context, environment, flip_a_bit, python
from hypothesis import given
from hypothesis import strategies as st

from erpd_core.refs import Frozen
from tasks.execution.stage import Context, Stage, get_or_compute
from tasks.store import SIDE, Build, Store, identity

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=10,
)
specs = st.dictionaries(st.text(max_size=6), json_values, max_size=5)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def make(store: Store, files: dict[str, bytes], spec: dict[str, Any] | None = None) -> str:
    """Build and commit an artifact; returns its identity."""
    with store.build("thing", spec or {"a": 1}, {}, 1) as build:
        assert build is not None
        for name, data in files.items():
            build.put(name, lambda path, data=data: path.write_bytes(data))
        build.commit({"made": True})
        return build.id


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# ----------------------------------------------------------------------------------------- identity


@given(
    spec=specs,
    inputs=st.dictionaries(st.text(max_size=6), st.text(max_size=8), max_size=5),
    data=st.randoms(),
)
def test_identity_does_not_depend_on_the_order_of_keys(
    spec: dict[str, Any], inputs: dict[str, str], data: random.Random
):
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = list(value.items())
            data.shuffle(items)
            return {key: shuffled(inner) for key, inner in items}
        return [shuffled(inner) for inner in value] if isinstance(value, list) else value

    assert identity("thing", shuffled(spec), shuffled(inputs), 1) == identity(
        "thing", spec, inputs, 1
    )


def test_identity_changes_with_everything_it_is_made_of():
    asked = ("thing", {"a": {"b": [1, 2]}}, {"role": "x-1"}, 1)
    others = [
        ("other", *asked[1:]),
        ("thing", {"a": {"b": [2, 1]}}, *asked[2:]),
        ("thing", {"a": {"b": [1, 2], "c": None}}, *asked[2:]),
        ("thing", asked[1], {"role": "x-2"}, 1),
        ("thing", asked[1], {"other": "x-1"}, 1),
        ("thing", asked[1], {}, 1),
        (*asked[:3], 2),
    ]
    identities = {identity(*arguments) for arguments in [asked, *others]}
    assert len(identities) == 1 + len(others)
    assert all(
        name.partition("-")[2].isalnum() and len(name.partition("-")[2]) == 20
        for name in identities
    )


def test_a_question_that_json_cannot_say_has_no_identity():
    with pytest.raises(ValueError):
        identity("thing", {"a": float("nan")}, {}, 1)


# ---------------------------------------------------------------------------------- whole or absent


def test_an_artifact_is_not_there_before_commit_and_whole_after(store: Store):
    with store.build("thing", {"a": 1}, {"from": "x-1"}, 3) as build:
        assert build is not None
        build.put("one.txt", lambda path: path.write_text("1"))
        assert not store.has(build.id) and not store.path(build.id).exists()
        build.commit({"n": 1})
    assert store.has(build.id)
    manifest = store.manifest(build.id)
    assert (manifest.kind, manifest.spec, manifest.inputs, manifest.version, manifest.meta) == (
        "thing",
        {"a": 1},
        {"from": "x-1"},
        3,
        {"n": 1},
    )
    assert everything(store.path(build.id)) == {"one.txt", "manifest.json"}
    assert everything(store.root / "partial") == set()
    assert store.artifacts("thing") == [build.id]


def test_a_build_left_by_an_error_is_continued(store: Store):
    with pytest.raises(RuntimeError, match="power"), store.build("thing", {"a": 1}, {}, 1) as build:
        assert build is not None
        build.put("one.txt", lambda path: path.write_text("1"))
        raise RuntimeError("power cut")
    with store.build("thing", {"a": 1}, {}, 1) as build:
        assert build is not None
        assert build.done("one.txt") and not build.done("two.txt")
        build.put("two.txt", lambda path: path.write_text("2"))
        build.commit({})
    assert (store.path(build.id) / "one.txt").read_text() == "1"


def test_a_put_that_fails_leaves_nothing(store: Store):
    def half(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with store.build("thing", {"a": 1}, {}, 1) as build:
        assert build is not None
        with pytest.raises(OSError, match="disk full"):
            build.put("one.txt", half)
        assert everything(build.folder) == set()
        assert not build.done("one.txt")


def test_a_put_that_fails_over_an_older_file_does_not_leave_the_older_one_as_done(store: Store):
    """The older bytes fit the same spec, but a caller that puts a file again wants new ones."""
    with store.build("thing", {"a": 1}, {}, 1) as build:
        assert build is not None
        build.put("one.txt", lambda path: path.write_text("1"))
        with pytest.raises(ZeroDivisionError):
            build.put("one.txt", lambda path: 1 // 0)
        assert not build.done("one.txt")


def test_a_dropped_file_is_not_committed(store: Store):
    with store.build("thing", {"a": 1}, {}, 1) as build:
        assert build is not None
        build.put("keep.txt", lambda path: path.write_text("1"))
        build.put("resume.bin", lambda path: path.write_text("2"))
        build.drop("resume.bin")
        assert set(build.commit({}).files) == {"keep.txt"}
    assert everything(store.path(build.id)) == {"keep.txt", "manifest.json"}


KILLED = """
import os, sys
from pathlib import Path
from tasks.store import Store

root, point = Path(sys.argv[1]), sys.argv[2]
with Store(root).build("thing", {"a": 1}, {}, 1) as build:
    for name in ("one.txt", "two.txt", "three.txt"):
        if build.done(name):
            print("found", name)
            continue
        def write(path):
            path.write_text(name * 1000)
            if point == f"in {name}":
                os._exit(9)
        build.put(name, write)
        print("made", name, flush=True)
        if point == f"after {name}":
            os._exit(9)
    if point == "in commit":
        import tasks.store
        Path.replace = lambda *_: os._exit(9)
    build.commit({})
    print("committed", build.id)
"""


@pytest.mark.parametrize(
    ("point", "found"),
    [
        ("in one.txt", []),
        ("after one.txt", ["one.txt"]),
        ("in three.txt", ["one.txt", "two.txt"]),
        ("after three.txt", ["one.txt", "two.txt", "three.txt"]),
    ],
)
def test_a_killed_build_goes_on_from_its_last_durable_file(
    tmp_path: Path, point: str, found: list[str]
):
    assert python(KILLED, tmp_path, point, home=tmp_path).returncode == 9
    again = python(KILLED, tmp_path, "never", home=tmp_path)
    assert again.returncode == 0, again.stderr
    lines = again.stdout.split("\n")
    assert [line.split()[1] for line in lines if line.startswith("found")] == found
    store = Store(tmp_path)
    (artifact,) = store.artifacts("thing")
    assert store.has(artifact)
    assert everything(store.path(artifact)) == {"one.txt", "two.txt", "three.txt", "manifest.json"}
    assert (store.path(artifact) / "three.txt").read_text() == "three.txt" * 1000
    assert [name for name in everything(tmp_path) if name.endswith((".tmp", SIDE))] == []


def test_a_build_killed_in_its_commit_is_committed_next_time(tmp_path: Path):
    assert python(KILLED, tmp_path, "in commit", home=tmp_path).returncode == 9
    store = Store(tmp_path)
    assert store.artifacts("thing") == []
    assert python(KILLED, tmp_path, "never", home=tmp_path).returncode == 0
    (artifact,) = store.artifacts("thing")
    assert store.has(artifact) and set(store.manifest(artifact).files) == {
        "one.txt",
        "two.txt",
        "three.txt",
    }


def test_seconds_add_up_over_sessions(store: Store):
    with store.build("thing", {"a": 1}, {}, 1) as build:
        assert build is not None
        build._since -= 100.0
        build.put("one.txt", lambda path: path.write_text("1"))
    with store.build("thing", {"a": 1}, {}, 1) as build:
        assert build is not None
        build._since -= 10.0
        assert 110.0 <= build.commit({}).seconds < 112.0


# ------------------------------------------------------------------------------------------- damage


def flipped(path: Path) -> None:
    flip_a_bit(path)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [flipped, truncated, emptied, Path.unlink])
def test_a_damaged_file_is_found_and_the_artifact_set_aside(store: Store, harm: Any):
    artifact = make(store, {"one.bin": bytes(1000), "two.bin": bytes(range(250))})
    harm(store.path(artifact) / "two.bin")
    fresh = Store(store.root)
    assert "two.bin" in (fresh.damage(artifact) or "")
    assert not fresh.has(artifact)
    assert not fresh.path(artifact).exists()
    (set_aside,) = (store.root / "damaged").iterdir()
    assert "two.bin" in (set_aside / "damage.txt").read_text()
    assert (set_aside / "one.bin").read_bytes() == bytes(1000), (
        "what was there is kept for a user to inspect"
    )


def test_a_damaged_manifest_counts_as_damage(store: Store):
    artifact = make(store, {"one.bin": b"1"})
    (store.path(artifact) / "manifest.json").write_text("{")
    assert not Store(store.root).has(artifact)


def test_a_damaged_partial_file_is_made_again(store: Store):
    with pytest.raises(RuntimeError), store.build("thing", {"a": 1}, {}, 1) as build:
        assert build is not None
        build.put("one.bin", lambda path: path.write_bytes(bytes(100)))
        raise RuntimeError
    flip_a_bit(build.folder / "one.bin")
    with store.build("thing", {"a": 1}, {}, 1) as build:
        assert build is not None and not build.done("one.bin")


class Answer(Frozen):
    id: str
    value: int


class Squared(Stage[Answer]):
    """A stage that writes one file, and a line into `log` each time it really computes."""

    KIND: ClassVar[str] = "squared"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = Answer

    n: int
    log: str

    def spec(self) -> dict[str, Any]:
        return {"n": self.n}

    def inputs(self) -> dict[str, str]:
        return {}

    def compute(self, context: Context, build: Build) -> Answer:
        with Path(self.log).open("a") as log:
            log.write(f"{os.getpid()}\n")
        build.put("square.json", lambda path: path.write_text(json.dumps(self.n**2)))
        return Answer(id=build.id, value=self.n**2)


def test_fulfil_works_once_and_then_finds(store: Store, tmp_path: Path):
    stage = Squared(n=3, log=str(tmp_path / "log"))
    assert stage.stored(store) is None
    first = get_or_compute(stage, context(store))
    assert first == Answer(id=stage.identity(), value=9)
    assert get_or_compute(stage, context(Store(store.root))) == first == stage.stored(store)
    assert len((tmp_path / "log").read_text().split()) == 1


def test_fulfil_makes_a_damaged_artifact_again(store: Store, tmp_path: Path):
    stage = Squared(n=3, log=str(tmp_path / "log"))
    first = get_or_compute(stage, context(store))
    flip_a_bit(store.path(first.id) / "square.json")
    fresh = Store(store.root)
    assert stage.stored(fresh) is None
    assert get_or_compute(stage, context(fresh)) == first
    assert (fresh.path(first.id) / "square.json").read_text() == "9"
    assert len((tmp_path / "log").read_text().split()) == 2
    assert len(list((store.root / "damaged").iterdir())) == 1


ASKING = """
import os, sys, time
from pathlib import Path
from tasks.store import Store

root, log = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
with Store(root).build("thing", {"a": 1}, {}, 1) as build:
    if build is not None:
        with open(log, "a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(0.5)
        build.put("one.txt", lambda path: path.write_text("1"))
        build.commit({})
"""


def test_of_several_processes_that_ask_at_once_one_does_the_work(tmp_path: Path):
    command = [sys.executable, "-c", ASKING, str(tmp_path / "store"), str(tmp_path / "log")]
    asking = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(tmp_path),
            cwd=ROOT,
        )
        for _ in range(3)
    ]
    for process in asking:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in asking:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in asking:
        process.communicate(timeout=60)
    assert [process.returncode for process in asking] == [0, 0, 0]
    assert len((tmp_path / "log").read_text().split()) == 1
    store = Store(tmp_path / "store")
    (artifact,) = store.artifacts("thing")
    assert store.has(artifact)


def test_discard_forgets_an_artifact(store: Store):
    artifact = make(store, {"one.bin": b"1"})
    assert store.has(artifact)
    store.discard(artifact)
    assert not store.has(artifact)
    with pytest.raises(FileNotFoundError, match="is not in the store"):
        store.manifest(artifact)
