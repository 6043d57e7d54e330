"""Scoring by actors gives the same columns for any number of actors, even if actors fail."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from helpers import World, context, events, wait_until
from ray_lab import own_ray, ray_workers
from torch import Tensor

from erpd_core.config import RuntimeConfig, SamplingConfig
from erpd_core.refs import RolloutRef
from tasks.evaluation.evaluate import EvaluatePolicy
from tasks.execution.progress import Progress
from tasks.execution.stage import Context, get_or_compute
from tasks.rollouts import SampleRollouts, scorers
from tasks.rollouts.score import ScoreRollouts
from tasks.rollouts.scorers import Scorer
from tasks.rollouts.shard_workers import no_tick
from tasks.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.ray]

SAMPLING = SamplingConfig(samples=8, temperature=1.0, max_new_tokens=24, shard=16)


class NotedScorer(Scorer):
    """A scorer that records its process id and each shard it receives."""

    def run(self, shard: Path, tick: Callable[[], object] = no_tick) -> dict[str, Tensor]:
        with (shard.parents[2] / "handed").open("a") as file:
            file.write(f"{os.getpid()} {shard.stem}\n")
        return super().run(shard)


class FrailScorer(NotedScorer):
    """A scorer whose process dies once, on one shard."""

    def run(self, shard: Path, tick: Callable[[], object] = no_tick) -> dict[str, Tensor]:
        columns = super().run(shard)
        if shard.stem == "shard-00001" and handed(shard.parents[2]).count("shard-00001") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return columns


@pytest.fixture(scope="module")
def ray_home() -> Iterator[Path]:
    with own_ray() as home:
        yield home


@pytest.fixture(scope="module")
def sampled(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, RolloutRef]:
    """A rollout with four shards."""
    root = tmp_path_factory.mktemp("sampled") / "store"
    shutil.copytree(world.store.root, root)
    stage = SampleRollouts(policy=world.base, problems=world.problems, sampling=SAMPLING, seed=3)
    return Store(root), get_or_compute(stage, context(Store(root)))


@pytest.fixture
def store(sampled: tuple[Store, RolloutRef], tmp_path: Path) -> Store:
    shutil.copytree(sampled[0].root, tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def stage(world: World, sampled: tuple[Store, RolloutRef]) -> ScoreRollouts:
    return ScoreRollouts(policy=world.base, rollouts=sampled[1])


@pytest.fixture(scope="module")
def alone(
    sampled: tuple[Store, RolloutRef],
    stage: ScoreRollouts,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """Files and digests as written by one process with one thread."""
    root = tmp_path_factory.mktemp("alone") / "store"
    shutil.copytree(sampled[0].root, root)
    return Store(root).manifest(get_or_compute(stage, context(Store(root), cpus=1)).id).files


def with_scorers(store: Store, **runtime: int) -> Context:
    path = store.root.parent / "logs" / "a.events.jsonl"
    path.parent.mkdir(exist_ok=True)
    return Context(
        store, RuntimeConfig(**{"cpus": 2, "scorers": 2, **runtime}), Progress(path, "score")
    )


def handed(root: Path) -> list[str]:
    return [line.split()[1] for line in (root / "handed").read_text().splitlines()]


def actors() -> list[psutil.Process]:
    return ray_workers("Scorer", "NotedScorer", "FrailScorer")


def test_two_actors_write_the_columns_of_one_process(
    ray_home: Path,
    store: Store,
    stage: ScoreRollouts,
    alone: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(scorers, "Scorer", NotedScorer)
    ref = get_or_compute(stage, with_scorers(store))
    assert store.manifest(ref.id).files == alone, "the same bytes"
    assert sorted(handed(store.root)) == [f"shard-0000{number}" for number in range(4)]
    pids = {line.split()[0] for line in (store.root / "handed").read_text().splitlines()}
    assert len(pids) == 2 and str(os.getpid()) not in pids
    progress = [event for event in events(store.root.parent) if "done" in event]
    assert (progress[-1]["done"], progress[-1]["total"]) == (4, 4)
    assert wait_until(lambda: not actors(), 20), "no actor stays"


@pytest.mark.long
def test_a_scorer_that_dies_loses_its_shard_in_hand_and_nothing_else(
    ray_home: Path,
    store: Store,
    stage: ScoreRollouts,
    alone: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(scorers, "Scorer", FrailScorer)
    ref = get_or_compute(stage, with_scorers(store))
    assert store.manifest(ref.id).files == alone
    assert sorted(handed(store.root)) == [
        "shard-00000",
        "shard-00001",
        "shard-00001",
        "shard-00002",
        "shard-00003",
    ]
    notices = [
        event["label"] for event in events(store.root.parent) if event.get("status") == "said"
    ]
    assert ["shard-00001" in text and "started again" in text for text in notices] == [True]


@pytest.mark.long
@pytest.mark.parametrize("samplers", [1, 2])
def test_an_evaluation_finds_room_for_its_scorers(
    ray_home: Path, world: World, store: Store, samplers: int
):
    """The stage is submitted as a campaign does. If it has its own CPUs it scores itself, otherwise
    its scorers do.
    """
    import ray

    from tasks.execution.submit import request_for

    parts = {"old": world.base, "base": world.base, "benchmarks": {"tiny": world.problems}}
    stage = EvaluatePolicy(policy=world.base, **parts, sampling=SAMPLING, seed=4)
    expected = get_or_compute(stage, context(store, cpus=1))
    for artifact in (
        expected_id
        for kind in ("evaluation", "column", "rollouts")
        for expected_id in store.artifacts(kind)
    ):
        store.discard(artifact)
    here = with_scorers(store, samplers=samplers)
    task = (
        ray.remote(get_or_compute)
        .options(**request_for(stage, here.runtime).options, max_retries=0)
        .remote(stage, here)
    )
    assert ray.get(task, timeout=200) == expected
    assert wait_until(lambda: not actors(), 20)
