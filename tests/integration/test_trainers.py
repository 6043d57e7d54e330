"""Training by actors on Ray follows the trajectory of one process, even if processes are killed."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from gang_member import Member
from helpers import Campaign, World, context, events, no_process_left, run_campaign, wait_until
from ray_lab import own_ray, ray_workers
from safetensors.torch import load_file

from erpd_core.config import SAPO, OptimizerConfig, RuntimeConfig, TrainConfig
from erpd_core.refs import TrainingRef
from tasks.execution import gang
from tasks.execution.gang import run_gang
from tasks.execution.placement import placement
from tasks.execution.progress import Progress
from tasks.execution.resource_requests import ResourceRequest
from tasks.execution.stage import Context, get_or_compute
from tasks.store import Store
from tasks.training.base import load_records
from tasks.training.teacher import TrainTeacher

pytestmark = [pytest.mark.slow, pytest.mark.ray]

STEPS, LR = 24, 1e-4


@pytest.fixture(scope="module")
def ray_home() -> Iterator[Path]:
    # At Ray's default of 15, workers that wait for each other are very slow on a busy machine.
    with own_ray(RAY_worker_niceness="0") as home:
        yield home


@pytest.fixture
def store(world: World, tmp_path: Path) -> Store:
    shutil.copytree(world.store.root, tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def stage(world: World) -> TrainTeacher:
    config = TrainConfig(
        loss=SAPO(), optimizer=OptimizerConfig(lr=LR), minibatch=64, steps=STEPS, keep=(STEPS // 2,)
    )
    return TrainTeacher(
        init=world.base,
        rollouts=world.rollouts,
        old=world.old,
        role="teacher",
        config=config,
        seed=3,
    )


@pytest.fixture(scope="module")
def one_process(
    world: World, stage: TrainTeacher, tmp_path_factory: pytest.TempPathFactory
) -> Store:
    root = tmp_path_factory.mktemp("alone") / "store"
    shutil.copytree(world.store.root, root)
    get_or_compute(stage, context(Store(root), cpus=1))
    return Store(root)


def with_trainers(store: Store, **runtime: Any) -> Context:
    path = store.root.parent / "logs" / "a.events.jsonl"
    path.parent.mkdir(exist_ok=True)
    return Context(
        store,
        RuntimeConfig(**{"cpus": 2, "trainers": 2, "checkpoint_every": 2, **runtime}),
        Progress(path, "train"),
    )


def trainers() -> list[psutil.Process]:
    return ray_workers("Worker")


def under_way(store: Store, stage: TrainTeacher) -> bool:
    """Whether the training has a checkpoint and both its workers still run."""
    folder = store.root / "partial" / stage.identity()
    return any(folder.glob("resume-*-00001-of-00002.safetensors.sum")) and len(trainers()) == 2


def assert_same_trajectory(single: Store, several: Store, ref: TrainingRef) -> None:
    """Records agree to 1e-3; weights to a tenth of the largest change that Adam can make."""
    for expected, actual in zip(load_records(single, ref), load_records(several, ref), strict=True):
        assert actual == pytest.approx(expected, rel=1e-3, abs=1e-4)
    for policy in ref.trail:
        expected, actual = (
            load_file(store.path(policy.id) / "model.safetensors") for store in (single, several)
        )
        for name in expected:
            torch.testing.assert_close(
                actual[name], expected[name], rtol=0, atol=0.1 * LR * policy.step
            )


def test_two_workers_on_ray_follow_the_trajectory_of_one_process(
    ray_home: Path, store: Store, stage: TrainTeacher, one_process: Store
):
    ref = get_or_compute(stage, with_trainers(store))
    assert_same_trajectory(one_process, store, ref)
    assert wait_until(lambda: not trainers(), 20), "no actor stays"


def test_a_stage_is_placed_on_its_node_of_the_cluster(ray_home: Path):
    place = placement(ResourceRequest(cpus=1, gpus=0.5), RuntimeConfig(cpus=2))
    assert place["nodes"] == {place["node"]: (2.0, 0.0)}
    assert (place["pid"], place["cpus"], place["gpus"]) == (os.getpid(), 1, 0.5)


@pytest.mark.long
def test_a_killed_worker_is_replaced_and_the_trajectory_is_the_same(
    ray_home: Path, store: Store, stage: TrainTeacher, one_process: Store
):
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(get_or_compute(stage, with_trainers(store)))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert wait_until(lambda: under_way(store, stage), 400)
    trainers()[0].kill()
    thread.join(300)
    (ref,) = outcome
    assert isinstance(ref, TrainingRef), ref
    assert_same_trajectory(one_process, store, ref)
    logged = events(store.root.parent)
    assert [
        "all resume from the last checkpoint" in event["label"]
        for event in logged
        if event.get("status") == "said"
    ] == [True]
    assert wait_until(lambda: not trainers(), 20), "no actor stays"
    assert {path.name for path in store.path(ref.id).iterdir()} == {
        "records.jsonl",
        "manifest.json",
    }


@pytest.mark.long
def test_a_killed_stage_goes_on_and_nobody_holds_its_room(
    ray_home: Path, store: Store, stage: TrainTeacher, one_process: Store
):
    """The stage is a Ray task that requests no CPUs. Its worker is killed while its trainers, which
    hold all CPUs, train.
    """
    import ray

    task = (
        ray.remote(get_or_compute)
        .options(num_cpus=0, max_retries=0)
        .remote(stage, with_trainers(store))
    )
    assert wait_until(lambda: under_way(store, stage), 400)
    (worker,) = ray_workers("get_or_compute")
    worker.kill()
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(task)
    assert wait_until(lambda: not trainers(), 30), "the trainers die with their stage"
    again = (
        ray.remote(get_or_compute)
        .options(num_cpus=0, max_retries=0)
        .remote(stage, with_trainers(store))
    )
    ref = ray.get(again, timeout=300)
    assert_same_trajectory(one_process, store, ref)


# ----------------------------------------------------------------------------------------- the gang


def run(folder: Path, does: str, notices: list[str]) -> list[int]:
    return run_gang(
        "test",
        lambda start, address: [start(Member, number, does, folder) for number in range(2)],
        lambda actor: actor.work.remote(),
        ResourceRequest(1, 0.0),
        2,
        lambda: "no progress",
        notices.append,
    )


def test_a_gang_answers_in_the_order_of_its_members(ray_home: Path, tmp_path: Path):
    assert run(tmp_path, "work", []) == [0, 1]


def test_after_a_death_all_begin_again(ray_home: Path, tmp_path: Path):
    notices: list[str] = []
    assert run(tmp_path, "die once", notices) == [0, 1]
    assert len(notices) == 1 and sorted((tmp_path / "calls").read_text().split()) == [
        "0",
        "0",
        "1",
        "1",
    ]


def test_members_that_always_die_are_an_error(ray_home: Path, tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"3 have died at the same place.*runtime\.trainers"):
        run(tmp_path, "die", [])
    assert (tmp_path / "calls").read_text().split().count("1") == 3


def test_what_a_member_raises_is_raised_though_others_wait(
    ray_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gang, "GRACE_SECONDS", 1.0)
    with pytest.raises(ValueError, match="1: no tokenizer"):
        run(tmp_path, "raise", [])
    assert wait_until(lambda: not ray_workers("Member"), 20)


# --------------------------------------------------------------------------------------- a campaign


@pytest.mark.long
def test_a_campaign_trains_with_two_workers(undisturbed: Campaign):
    """The real command on Ray, with two workers each for stages 1 and 2. The records of its first
    teacher equal those of one process.
    """
    with tempfile.TemporaryDirectory(prefix="e-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        overrides = (
            "iterations=1",
            "runtime.ray=on",
            "runtime.trainers=2",
            "runtime.trainer_cpus=1",
            "runtime.cpus=2",
        )
        campaign = run_campaign(Path(folder), *overrides)
        result = campaign.result
        assert result["status"] == "completed"
        ours, theirs = (
            outcome["iterations"][0]["student"]["scores"]["test"]["avg"]
            for outcome in (result, undisturbed.result)
        )
        assert ours == pytest.approx(theirs, abs=0.1), (
            "rounding differences of the weights change a few sampled tokens"
        )
        stores = Store(undisturbed.home / "store"), Store(campaign.home / "store")
        shared = sorted(set(stores[0].artifacts("training")) & set(stores[1].artifacts("training")))
        assert shared, "the first teacher has the same identity in both"
        for training in shared:
            refs = [
                TrainingRef.model_validate(store.manifest(training).meta["ref"]) for store in stores
            ]
            assert refs[0] == refs[1]
            for expected, actual in zip(
                *(load_records(store, refs[0]) for store in stores), strict=True
            ):
                assert actual["loss"] == pytest.approx(expected["loss"], rel=1e-2, abs=1e-3)
                assert actual["entropy"] == pytest.approx(expected["entropy"], rel=1e-2)
        assert no_process_left(campaign.home) == []
