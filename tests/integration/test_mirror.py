"""Two homes that share only a mirror, on a disk or an S3 server.

Each finds the other's artifacts, complete and with the same bytes.
"""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from helpers import World, context, erpd, flip_a_bit, python, wait_until

from deployments.servers.local_platform import free_port
from erpd_core.config import CE, EmbeddedModel, SamplingConfig, TinyProblems, TrainConfig
from tasks.datasets import draw_problems
from tasks.execution.progress import Progress
from tasks.execution.stage import Context, get_or_compute
from tasks.models.import_policy import import_policy
from tasks.rollouts import SampleRollouts
from tasks.rollouts.score import ScoreRollouts
from tasks.store import Store, open_store
from tasks.store.manifest import MANIFEST
from tasks.store.mirror import Mirror
from tasks.training.teacher import TrainTeacher

pytestmark = pytest.mark.slow
FILES = {"weights.bin": b"\0\1\2" * 50_000, "folder/config.json": b'{"a": 1}', "empty": b""}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Address of an S3 server on loopback with a bucket `bucket`.

    The credentials are in the environment.
    """
    # In a separate process: moto loads Flask, whose proxies break vLLM's scan of all modules of a
    # process.
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: answers(address), 60), "moto's server did not start"
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {
                "ACCESS_KEY_ID": "it",
                "SECRET_ACCESS_KEY": "works",
                "ENDPOINT_URL": address,
            }.items():
                patch.setenv(f"AWS_{name}", value)
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            fsspec.filesystem("s3").mkdir("bucket")
            yield address
    finally:
        server.terminate()
        server.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/moto-api/", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty mirror."""
    if request.param == "file":
        return f"file://{tmp_path}/shared disk/erpd"
    request.getfixturevalue("s3")
    return f"s3://bucket/{secrets.token_hex(4)}/erpd"


def home(tmp_path: Path, name: str, url: str) -> Store:
    return Store(tmp_path / name / "store", Mirror(url))


def make(store: Store, files: dict[str, bytes] = FILES) -> str:
    with store.build("thing", {"a": 1}, {}, 1) as build:
        assert build is not None
        for name, data in files.items():
            build.put(name, lambda path, data=data: path.write_bytes(data))
        build.commit({"ref": {"n": 1}})
    return build.id


def contents(store: Store, artifact: str) -> dict[str, bytes]:
    folder = store.path(artifact)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }


def places(url: str, artifact: str, name: str = "") -> tuple[Any, list[str]]:
    """The mirror's file system, and the paths of an artifact's files that end with `name`."""
    fs, root = fsspec.url_to_fs(url)
    fs.invalidate_cache()
    folder = f"{root}/thing/{artifact}"
    paths = fs.find(folder) if fs.exists(folder) else []
    return fs, [path for path in paths if path.endswith(name)]


# -------------------------------------------------------------------------------- upload and fetch


def test_what_one_home_made_another_with_an_empty_store_finds(tmp_path: Path, url: str) -> None:
    first, second = home(tmp_path, "first", url), home(tmp_path, "second", url)
    assert not second.has("thing-0123456789")
    artifact = make(first)
    assert second.has(artifact) and contents(second, artifact) == FILES
    assert second.manifest(artifact) == first.manifest(artifact)
    with second.build("thing", {"a": 1}, {}, 1) as build:
        assert build is None, "the artifact is not made again"
    assert Store(second.root).has(artifact), "the second home's store has it now without the mirror"
    assert list((second.root / "fetched").iterdir()) == []


def test_an_artifact_older_than_the_mirror_is_copied_there_when_it_is_next_used(
    tmp_path: Path, url: str
) -> None:
    artifact = make(Store(tmp_path / "first" / "store"))
    assert places(url, artifact)[1] == []
    assert home(tmp_path, "first", url).has(artifact)
    assert home(tmp_path, "second", url).has(artifact)


def test_a_damaged_artifact_of_a_home_is_replaced_by_the_mirrors(tmp_path: Path, url: str) -> None:
    first = home(tmp_path, "first", url)
    artifact = make(first)
    flip_a_bit(first.path(artifact) / "weights.bin")
    again = home(tmp_path, "first", url)
    assert again.has(artifact) and contents(again, artifact) == FILES
    (damaged,) = (again.root / "damaged").iterdir()
    assert "weights.bin does not match its manifest" in (damaged / "damage.txt").read_text()


def test_what_is_discarded_is_gone_from_the_mirror_too_and_is_made_and_copied_again(
    tmp_path: Path, url: str
) -> None:
    first, second = home(tmp_path, "first", url), home(tmp_path, "second", url)
    artifact = make(first)
    first.discard(artifact)
    assert not first.has(artifact) and not second.has(artifact)
    assert make(first) == artifact
    assert second.has(artifact) and contents(second, artifact) == FILES
    first.discard(artifact)
    first.discard(artifact)  # discarding it again is no error


def test_a_training_whose_kept_policy_is_lost_everywhere_is_taken_again(
    tmp_path: Path, url: str, world: World
) -> None:
    store = home(tmp_path, "first", url)
    for artifact in (world.base.id, world.rollouts.id, world.old.id):
        shutil.copytree(world.store.path(artifact), store.path(artifact))
    config = TrainConfig(loss=CE(), steps=2, minibatch=16, keep=(1,))
    stage = TrainTeacher(
        config=config,
        init=world.base,
        rollouts=world.rollouts,
        old=world.old,
        role="teacher",
        seed=0,
    )
    first = get_or_compute(stage, context(store))
    lost = first.trail[0].id
    before = store.manifest(lost).files
    shutil.rmtree(store.path(lost))
    store.mirror.remove(lost)
    again = home(tmp_path, "first", url)
    assert stage.stored(again) is None
    assert get_or_compute(stage, context(again)) == first
    assert again.manifest(lost).files == before
    assert home(tmp_path, "second", url).has(lost)


def test_a_campaigns_stages_go_on_in_another_home_from_what_the_first_made(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirror is set by its environment variable. The second home scores the first one's
    samples instead of sampling.
    """
    monkeypatch.setenv("ERPD_STORE_URL", url)

    def at(name: str) -> Context:
        from erpd_core.config import RuntimeConfig

        monkeypatch.setenv("ERPD_HOME", str(tmp_path / name))
        return Context(open_store(), RuntimeConfig(ray="off"), Progress(None))

    def sample(context: Context) -> Any:
        base = get_or_compute(import_policy(EmbeddedModel()), context)
        problems = get_or_compute(draw_problems("prompts", TinyProblems(count=4), 7), context)
        sampling = SamplingConfig(samples=2, max_new_tokens=8, shard=2)
        return base, get_or_compute(
            SampleRollouts(policy=base, problems=problems, sampling=sampling, seed=7), context
        )

    base, rollouts = sample(at("first"))
    monkeypatch.setattr(SampleRollouts, "compute", lambda *_: pytest.fail("sampled again"))
    second = at("second")
    assert sample(second) == (base, rollouts)
    column = get_or_compute(ScoreRollouts(policy=base, rollouts=rollouts), second)
    assert at("first").store.has(column.id)


# ----------------------------------------------------------------------- damaged and partial copies


@pytest.mark.parametrize("name", ["weights.bin", "folder/config.json"])
def test_a_damaged_copy_is_refused_by_its_checksum(tmp_path: Path, url: str, name: str) -> None:
    first, second = home(tmp_path, "first", url), home(tmp_path, "second", url)
    artifact = make(first)
    fs, (path,) = places(url, artifact, name)
    data = bytearray(fs.cat_file(path))
    data[len(data) // 2] ^= 1
    fs.pipe_file(path, bytes(data))
    message = f"{url}: {artifact}/{name} is damaged there; remove "
    with pytest.raises(RuntimeError, match=re.escape(message)) as refused:
        second.has(artifact)
    assert not second.path(artifact).exists() and list((second.root / "fetched").iterdir()) == []
    # do what the message says
    fs.rm(str(refused.value).partition("; remove ")[2].partition(",")[0], recursive=True)
    assert not second.has(artifact)
    assert home(tmp_path, "first", url).has(artifact), "a home that has it uploads it again"
    assert second.has(artifact) and contents(second, artifact) == FILES


def test_a_copy_with_a_file_missing_is_refused(tmp_path: Path, url: str) -> None:
    artifact = make(home(tmp_path, "first", url))
    fs, (path,) = places(url, artifact, "weights.bin")
    fs.rm_file(path)
    with pytest.raises(RuntimeError, match=r"weights\.bin is damaged there"):
        home(tmp_path, "second", url).has(artifact)


KILLED = """
import os, sys
from pathlib import Path
from tasks.store.mirror import Mirror
from tasks.store import Store

mirror, upload, count = Mirror(sys.argv[2]), Mirror._upload, 0
def dying(self, path, place):
    global count
    count += 1
    if count == int(sys.argv[3]):
        os._exit(9)
    upload(self, path, place)
Mirror._upload = dying
with Store(Path(sys.argv[1]), mirror).build("thing", {"a": 1}, {}, 1) as build:
    for name, data in (("one", b"1" * 1000), ("two", b"2" * 1000)):
        build.put(name, lambda path: path.write_bytes(data))
    build.commit({})
"""


@pytest.mark.parametrize("at", [1, 2, 3])
def test_half_an_upload_is_not_taken_for_whole_and_is_finished_by_the_next_use(
    tmp_path: Path, url: str, at: int
) -> None:
    """The upload is killed before one of its three files; the manifest is the last one."""
    first, second = home(tmp_path, "first", url), home(tmp_path, "second", url)
    assert python(KILLED, first.root, url, at, home=tmp_path / "first").returncode == 9
    (artifact,) = first.artifacts("thing")
    assert len(places(url, artifact)[1]) == at - 1
    assert not second.has(artifact) and not second.path(artifact).exists()
    assert first.has(artifact)
    assert second.has(artifact) and contents(second, artifact) == {
        "one": b"1" * 1000,
        "two": b"2" * 1000,
    }


def test_half_a_manifest_is_none(tmp_path: Path, url: str) -> None:
    first, second = home(tmp_path, "first", url), home(tmp_path, "second", url)
    artifact = make(first)
    fs, (path,) = places(url, artifact, MANIFEST)
    fs.pipe_file(path, fs.cat_file(path)[:100])
    assert not second.has(artifact)
    assert home(tmp_path, "first", url).has(artifact)
    assert second.has(artifact)


def test_two_machines_that_make_one_artifact_at_a_time_do_not_mix_their_bytes(
    tmp_path: Path, url: str
) -> None:
    """Different hardware gives different bytes. The last manifest belongs to the files uploaded
    with it.
    """
    first, second, third = (home(tmp_path, name, url) for name in ("first", "second", "third"))
    other = {**FILES, "weights.bin": b"other bytes"}
    artifact = make(first)
    fs, (path,) = places(url, artifact, MANIFEST)
    fs.rm_file(path)  # as if the second began before the first uploaded its manifest
    assert make(second, other) == artifact
    assert third.has(artifact) and contents(third, artifact) == other
    assert contents(first, artifact) == FILES and home(tmp_path, "first", url).has(artifact)


# ----------------------------------------------------------------------------------------- refusals


def test_a_place_that_cannot_be_written_is_refused_before_anything_starts(
    tmp_path: Path, s3: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    for url, reason in {
        "s3://no-such-bucket/erpd": "cannot be written",
        f"file://{tmp_path}/file/erpd": "cannot be written",
        "s4://bucket/erpd": "cannot be used",
    }.items():
        with pytest.raises(ValueError, match=f"ERPD_STORE_URL: {re.escape(url)} {reason}"):
            Mirror(url).check()
    assert not fsspec.filesystem("s3").exists("no-such-bucket"), (
        "a bucket with a wrong name was created"
    )
    Mirror("s3://bucket/erpd").check()
    assert fsspec.filesystem("s3").find("bucket/erpd") == []
    done = erpd(
        "run",
        "tiny",
        "--set",
        "runtime.ray=off",
        home=tmp_path,
        ERPD_STORE_URL="s3://no-such-bucket/erpd",
    )
    assert done.returncode == 2 and done.stderr.startswith(
        "erpd: ERPD_STORE_URL: s3://no-such-bucket/erpd cannot be written"
    ), done.stderr
