"""Sampling by actors: the same samples however many there are, and whatever becomes of them."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from helpers import World, context, events, wait_until
from ray_lab import own_ray, ray_workers

from erpd_core.config import RuntimeConfig, SamplingConfig
from erpd_core.refs import RolloutRef
from tasks.evaluation.evaluate import EvaluatePolicy
from tasks.execution.progress import Progress
from tasks.execution.stage import Context, get_or_compute
from tasks.rollouts import SampleRollouts, samplers
from tasks.rollouts.samplers import Sampler
from tasks.rollouts.shard import Shard
from tasks.store import Store
from tasks.store.manifest import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.ray]

SAMPLES = 160
"""Of each of 16 problems in a shard: some seconds of work, so that there is a middle to strike
in.
"""


class NotedSampler(Sampler):
    """A sampler that notes who is given which shard."""

    def sample(self, shard: Shard, tick: Callable[[], object] = lambda: None) -> pa.Table:
        with (shard.path.parents[2] / "handed").open("a") as file:
            file.write(f"{os.getpid()} {shard}\n")
        return super().sample(shard, tick)


class DoomedSampler(NotedSampler):
    """A sampler that its second shard kills, whoever has it in hand."""

    def sample(self, shard: Shard, tick: Callable[[], object] = lambda: None) -> pa.Table:
        rows = super().sample(shard, tick)
        if str(shard) == "shard-00001":
            os.kill(os.getpid(), signal.SIGKILL)
        return rows


class BrokenSampler(Sampler):
    """A sampler that cannot."""

    def sample(self, shard: Shard, tick: Callable[[], object] = lambda: None) -> pa.Table:
        raise ValueError(f"{shard}: no tokenizer")


@pytest.fixture(scope="module")
def ray_home() -> Iterator[Path]:
    with own_ray() as home:
        yield home


@pytest.fixture
def store(world: World, tmp_path: Path) -> Store:
    shutil.copytree(world.store.root, tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def stage(world: World) -> SampleRollouts:
    sampling = SamplingConfig(samples=SAMPLES, temperature=1.0, max_new_tokens=24, shard=16)
    return SampleRollouts(policy=world.base, problems=world.problems, sampling=sampling, seed=3)


@pytest.fixture(scope="module")
def undisturbed_rollouts(
    world: World, stage: SampleRollouts, tmp_path_factory: pytest.TempPathFactory
) -> Manifest:
    """What sampling in one process, without Ray, comes to."""
    root = tmp_path_factory.mktemp("alone") / "store"
    shutil.copytree(world.store.root, root)
    return Store(root).manifest(get_or_compute(stage, context(Store(root), cpus=1)).id)


def with_samplers(store: Store, count: int, **runtime: Any) -> Context:
    path = store.root.parent / "logs" / "a.events.jsonl"
    path.parent.mkdir(exist_ok=True)
    return Context(
        store,
        RuntimeConfig(**{"cpus": 2, "sampler_cpus": 1, "samplers": count, **runtime}),
        Progress(path, "sample"),
    )


def handed(store: Store) -> Counter[str]:
    """Shard -> how often it was given to a sampler."""
    return Counter(line.split()[1] for line in (store.root / "handed").read_text().splitlines())


def said(store: Store) -> list[str]:
    return [event["label"] for event in events(store.root.parent) if event.get("status") == "said"]


def actors() -> list[psutil.Process]:
    return ray_workers("Sampler", "NotedSampler", "DoomedSampler", "BrokenSampler")


def strike(store: Store, stage: SampleRollouts) -> tuple[int, Path]:
    """Stop an actor in the middle of a shard; its pid, and the shard's journal."""
    folder = store.root / "partial" / stage.identity()
    caught: list[tuple[int, Path]] = []

    def catch() -> bool:
        for journal in folder.glob("*.journal"):
            if (lines := count_lines(journal)) and lines < 16 * SAMPLES // 2:
                for process in actors():
                    try:
                        process.suspend()
                        held = any(Path(file.path) == journal for file in process.open_files())
                        if held and 0 < count_lines(journal) < 16 * SAMPLES:
                            caught.append((process.pid, journal))
                            return True
                        process.resume()
                    except psutil.Error:
                        continue
        return False

    assert wait_until(catch, 120), "no shard was ever in the middle"
    return caught[0]


def count_lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


class Working(threading.Thread):
    """The stage at work in a thread, so that the test can do harm meanwhile."""

    def __init__(self, stage: SampleRollouts, here: Context) -> None:
        super().__init__(daemon=True)
        self.stage, self.here = stage, here
        self.outcome: RolloutRef | Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = get_or_compute(self.stage, self.here)
        except Exception as error:
            self.outcome = error

    def ref(self) -> RolloutRef:
        self.join(300)
        assert isinstance(self.outcome, RolloutRef), self.outcome
        return self.outcome


@pytest.fixture(autouse=True)
def noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "Sampler", NotedSampler)


# -------------------------------------------------------------------------------------- undisturbed


def test_two_actors_sample_what_one_process_does(
    ray_home: Path, store: Store, stage: SampleRollouts, undisturbed_rollouts: Manifest
):
    ref = get_or_compute(stage, with_samplers(store, 2))
    assert store.manifest(ref.id).files == undisturbed_rollouts.files, "the same bytes"
    assert handed(store) == {f"shard-0000{number}": 1 for number in range(4)}
    pids = {line.split()[0] for line in (store.root / "handed").read_text().splitlines()}
    assert len(pids) == 2 and str(os.getpid()) not in pids, (
        "by two actors, each warm for its shards"
    )
    told = [event for event in events(store.root.parent) if "done" in event]
    assert (told[-1]["done"], told[-1]["total"]) == (64 * SAMPLES, 64 * SAMPLES)
    assert any(event["info"].get("tokens/s", 0) > 0 for event in told)
    assert wait_until(lambda: not actors(), 20), "no actor stays"


# ---------------------------------------------------------------------------------------- harm done


def test_a_killed_actor_loses_its_shard_in_hand_and_nothing_else(
    ray_home: Path, store: Store, stage: SampleRollouts, undisturbed_rollouts: Manifest
):
    work = Working(stage, with_samplers(store, 2))
    pid, journal = strike(store, stage)
    os.kill(pid, signal.SIGKILL)
    ref = work.ref()
    assert store.manifest(ref.id).files == undisturbed_rollouts.files
    assert handed(store) == {
        f"shard-0000{number}": 1 + (journal.stem == f"shard-0000{number}") for number in range(4)
    }
    assert [journal.stem in text and "begun again" in text for text in said(store)] == [True]
    assert wait_until(lambda: not actors(), 20)


@pytest.mark.long
def test_a_wedged_actor_is_found_by_the_deadline(
    ray_home: Path, store: Store, stage: SampleRollouts, undisturbed_rollouts: Manifest
):
    work = Working(stage, with_samplers(store, 2, sampler_deadline=20))
    pid, journal = strike(store, stage)
    ref = work.ref()
    assert store.manifest(ref.id).files == undisturbed_rollouts.files
    assert handed(store)[journal.stem] == 2 and handed(store).total() == 5
    assert ["no sign of life for 20 s" in text for text in said(store)] == [True]
    assert wait_until(lambda: not psutil.pid_exists(pid), 20), "the stopped process is gone"


def test_a_killed_actors_shard_goes_on_at_the_sample(
    ray_home: Path, store: Store, stage: SampleRollouts, undisturbed_rollouts: Manifest
):
    """`redo_seconds=0`: what is in the journal is taken over, and the new actor writes only the
    rest behind it.
    """
    work = Working(stage, with_samplers(store, 2, redo_seconds=0))
    pid, journal = strike(store, stage)
    before = journal.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    kept = store.root / "kept.journal"
    kept.hardlink_to(journal)
    os.kill(pid, signal.SIGKILL)
    ref = work.ref()
    after = kept.read_bytes()
    assert after.startswith(before) and after.count(b"\n") == 16 * SAMPLES, (
        "every response once, the first ones by the dead actor"
    )
    assert ref.sequences == 64 * SAMPLES and handed(store).total() == 5


@pytest.mark.long
def test_a_shard_that_kills_whoever_samples_it_is_an_error(
    ray_home: Path, store: Store, stage: SampleRollouts, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(samplers, "Sampler", DoomedSampler)
    with pytest.raises(
        RuntimeError, match=r"shard-00001: a worker died .* 3 have died .* runtime\.samplers"
    ):
        get_or_compute(stage, with_samplers(store, 2))
    assert handed(store)["shard-00001"] == 3
    assert (store.root / "partial" / stage.identity() / "shard-00000.parquet").exists(), (
        "what was finished is kept"
    )
    assert wait_until(lambda: not actors(), 20)


@pytest.mark.long
def test_what_a_sampler_raises_is_raised(
    ray_home: Path, store: Store, stage: SampleRollouts, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(samplers, "Sampler", BrokenSampler)
    with pytest.raises(ValueError, match="no tokenizer"):
        get_or_compute(stage, with_samplers(store, 2))
    assert wait_until(lambda: not actors(), 20)


def test_actors_die_with_their_stage(ray_home: Path, store: Store, stage: SampleRollouts):
    """The stage as a Ray task that asks for nothing, its worker killed while its actors sample."""
    import ray

    task = (
        ray.remote(get_or_compute)
        .options(num_cpus=0, max_retries=0)
        .remote(stage, with_samplers(store, 2))
    )
    folder = store.root / "partial" / stage.identity()
    assert wait_until(lambda: any(count_lines(path) for path in folder.glob("*.journal")), 120)
    (worker,) = ray_workers("get_or_compute")
    assert len(actors()) == 2
    worker.kill()
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(task)
    assert wait_until(lambda: not actors(), 30), [one.cmdline() for one in actors()]


# ----------------------------------------------------------------------- room for what works inside


@pytest.mark.long
def test_an_evaluation_finds_room_for_its_samplers_and_for_its_scoring(
    ray_home: Path, world: World, store: Store
):
    """As a campaign submits it. Each sampler asks for all the CPUs, and so does scoring: nobody
    may hold what another waits for.
    """
    import ray

    from tasks.execution.submit import request_for

    sampling = SamplingConfig(samples=8, temperature=1.0, max_new_tokens=24, shard=16)
    parts = {"old": world.base, "base": world.base, "benchmarks": {"tiny": world.problems}}
    stage = EvaluatePolicy(policy=world.base, **parts, sampling=sampling, seed=3)
    here = context(store, cpus=2)
    expected = get_or_compute(stage, here)
    for artifact in (
        expected_id
        for kind in ("evaluation", "column", "rollouts")
        for expected_id in store.artifacts(kind)
    ):
        store.discard(artifact)
    apart = with_samplers(store, 2, sampler_cpus=2)
    task = (
        ray.remote(get_or_compute)
        .options(**request_for(stage, apart.runtime).options, max_retries=0)
        .remote(stage, apart)
    )
    assert ray.get(task, timeout=200) == expected
    assert wait_until(lambda: not actors(), 20)
