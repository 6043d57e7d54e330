"""Sampling by actors gives the same samples for any number of actors, even if actors fail."""

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
"""Samples per problem.

A shard has 16 problems and takes some seconds, long enough to interrupt it.
"""


class NotedSampler(Sampler):
    """A sampler that records its process id and each shard it receives."""

    def run(self, shard: Shard, tick: Callable[[], object] = lambda: None) -> pa.Table:
        with (shard.path.parents[2] / "handed").open("a") as file:
            file.write(f"{os.getpid()} {shard}\n")
        return super().run(shard, tick)


class DoomedSampler(NotedSampler):
    """A sampler whose process dies whenever it runs the second shard."""

    def run(self, shard: Shard, tick: Callable[[], object] = lambda: None) -> pa.Table:
        rows = super().run(shard, tick)
        if str(shard) == "shard-00001":
            os.kill(os.getpid(), signal.SIGKILL)
        return rows


class BrokenSampler(Sampler):
    """A sampler that always raises."""

    def run(self, shard: Shard, tick: Callable[[], object] = lambda: None) -> pa.Table:
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
    """The result of sampling in one process, without Ray."""
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


def notices(store: Store) -> list[str]:
    return [event["label"] for event in events(store.root.parent) if event.get("status") == "said"]


def actors() -> list[psutil.Process]:
    return ray_workers("Sampler", "NotedSampler", "DoomedSampler", "BrokenSampler")


def suspend_actor(store: Store, stage: SampleRollouts) -> tuple[int, Path]:
    """Suspend an actor in the middle of a shard; returns its pid and the shard's journal."""
    folder = store.root / "partial" / stage.identity()
    caught: list[tuple[int, Path]] = []

    def catch() -> bool:
        for journal in folder.glob("*.journal"):
            if (lines := count_lines(journal)) and lines < 16 * SAMPLES // 2:
                for process in actors():
                    try:
                        process.suspend()
                        writing = any(Path(file.path) == journal for file in process.open_files())
                        if writing and 0 < count_lines(journal) < 16 * SAMPLES:
                            caught.append((process.pid, journal))
                            return True
                        process.resume()
                    except psutil.Error:
                        continue
        return False

    assert wait_until(catch, 120), "no actor was caught in the middle of a shard"
    return caught[0]


def count_lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


class Working(threading.Thread):
    """A thread that runs the stage, so that the test can interfere meanwhile."""

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
    assert len(pids) == 2 and str(os.getpid()) not in pids, "two actors, each with several shards"
    progress = [event for event in events(store.root.parent) if "done" in event]
    assert (progress[-1]["done"], progress[-1]["total"]) == (64 * SAMPLES, 64 * SAMPLES)
    assert any(event["info"].get("tokens/s", 0) > 0 for event in progress)
    assert wait_until(lambda: not actors(), 20), "no actor stays"


# ----------------------------------------------------------------------------------------- failures


def test_a_killed_actor_loses_its_shard_in_hand_and_nothing_else(
    ray_home: Path, store: Store, stage: SampleRollouts, undisturbed_rollouts: Manifest
):
    work = Working(stage, with_samplers(store, 2))
    pid, journal = suspend_actor(store, stage)
    os.kill(pid, signal.SIGKILL)
    ref = work.ref()
    assert store.manifest(ref.id).files == undisturbed_rollouts.files
    assert handed(store) == {
        f"shard-0000{number}": 1 + (journal.stem == f"shard-0000{number}") for number in range(4)
    }
    assert [journal.stem in text and "started again" in text for text in notices(store)] == [True]
    assert wait_until(lambda: not actors(), 20)


@pytest.mark.long
def test_a_wedged_actor_is_found_by_the_deadline(
    ray_home: Path, store: Store, stage: SampleRollouts, undisturbed_rollouts: Manifest
):
    work = Working(stage, with_samplers(store, 2, sampler_deadline=20))
    pid, journal = suspend_actor(store, stage)
    ref = work.ref()
    assert store.manifest(ref.id).files == undisturbed_rollouts.files
    assert handed(store)[journal.stem] == 2 and handed(store).total() == 5
    assert ["no sign of life for 20 s" in text for text in notices(store)] == [True]
    assert wait_until(lambda: not psutil.pid_exists(pid), 20), "the stopped process is gone"


@pytest.mark.long
def test_a_killed_actors_shard_goes_on_at_the_sample(
    ray_home: Path, store: Store, stage: SampleRollouts, undisturbed_rollouts: Manifest
):
    """With `redo_seconds=0`, the new actor keeps the journal's responses and appends the rest."""
    work = Working(stage, with_samplers(store, 2, redo_seconds=0))
    pid, journal = suspend_actor(store, stage)
    before = journal.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    kept = store.root / "kept.journal"
    kept.hardlink_to(journal)
    os.kill(pid, signal.SIGKILL)
    ref = work.ref()
    after = kept.read_bytes()
    assert after.startswith(before) and after.count(b"\n") == 16 * SAMPLES, (
        "every response once, the first ones from the killed actor"
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


@pytest.mark.long
def test_actors_die_with_their_stage(ray_home: Path, store: Store, stage: SampleRollouts):
    """The stage is a Ray task that requests no CPUs; its worker is killed while its actors
    sample.
    """
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
    assert wait_until(lambda: not actors(), 30), [actor.cmdline() for actor in actors()]


# ------------------------------------------------------------------------ capacity of nested stages


@pytest.mark.long
def test_an_evaluation_finds_room_for_its_samplers_and_for_its_scoring(
    ray_home: Path, world: World, store: Store
):
    """The stage is submitted as a campaign does. Each sampler requests all CPUs and so does
    scoring, so none may hold CPUs that another one waits for.
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
    with_actors = with_samplers(store, 2, sampler_cpus=2)
    task = (
        ray.remote(get_or_compute)
        .options(**request_for(stage, with_actors.runtime).options, max_retries=0)
        .remote(stage, with_actors)
    )
    assert ray.get(task, timeout=200) == expected
    assert wait_until(lambda: not actors(), 20)
