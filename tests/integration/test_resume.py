"""A campaign that is killed several times and resumed gives the numbers of an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    Campaign,
    campaign_arguments,
    environment,
    events,
    no_process_left,
    numbers,
    processes_of,
    run_campaign,
    tracked,
    wait_until,
)

from tasks.registry import Registry
from tasks.store import Store

pytestmark = pytest.mark.slow

RESUMABLE = "runtime.checkpoint_every=3"
"""More frequent checkpoints than the undisturbed campaign's.

Runtime settings are not part of the spec, so it is the same campaign.
"""


def working_on(label: str, done: int = 0) -> Callable[[list[dict[str, Any]]], bool]:
    """A condition on the events: this stage is running, with at least `done` units done."""

    def reached(logged: list[dict[str, Any]]) -> bool:
        ours = [event for event in logged if event["label"].startswith(label)]
        return (
            any(event.get("done", 0) >= done for event in ours)
            if done
            else any(event.get("status") == "started" for event in ours)
        )

    return reached


MOMENTS = {
    "sampling the batch": working_on("1: sample the fixed batch"),
    "training the teacher": working_on("1: train teacher", done=4),
    "evaluating in iteration 2": working_on("2: evaluate"),
}


def kill_when(
    folder: Path, arguments: list[str], reached: Callable[[list[dict[str, Any]]], bool]
) -> None:
    """Start the campaign; kill its process group with SIGKILL when its events match `reached`."""
    home = folder / "home"
    before = len(events(home))
    command = [sys.executable, "-m", "deployments.cli", *arguments]
    log = (folder / "log.txt").open("a")
    process = subprocess.Popen(
        command,
        env=environment(home, HOME=str(folder / "user")),
        cwd=folder / "cwd",
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        assert wait_until(
            lambda: process.poll() is not None or reached(events(home)[before:]), 200, 0.05
        ), (folder / "log.txt").read_text()
        assert process.poll() is None, (
            f"the campaign ended before the kill: {(folder / 'log.txt').read_text()}"
        )
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The campaign, killed at each of the moments and then run to its end."""
    folder = tmp_path_factory.mktemp("killed")
    for name in ("home", "cwd", "user"):
        (folder / name).mkdir()
    (folder / "home" / "logs").mkdir()
    arguments = campaign_arguments("iterations=2", RESUMABLE)
    for moment, reached in MOMENTS.items():
        kill_when(folder, arguments, reached)
        assert no_process_left(folder / "home") == [], f"killed while {moment}"
    return run_campaign(folder, arguments=arguments)


def test_it_ends_in_the_same_numbers(disturbed: Campaign, undisturbed: Campaign):
    assert numbers(disturbed.result) == numbers(undisturbed.result)


def test_it_went_on_from_a_checkpoint(disturbed: Campaign):
    """After the kill at step 4 or later, the first step that the teacher's training reports is
    beyond the checkpoint at step 3.
    """
    logged = [
        event for event in events(disturbed.home) if event["label"].startswith("1: train teacher")
    ]
    starts = [index for index, event in enumerate(logged) if event.get("status") == "started"]
    assert len(starts) == 2
    assert next(event["done"] for event in logged[starts[1] :] if "done" in event) > 3


def test_what_was_durable_was_not_made_again(disturbed: Campaign):
    finished = [
        event["label"] for event in events(disturbed.home) if event.get("status") == "finished"
    ]
    assert len(finished) == len(set(finished))


def test_mlflow_has_no_missing_and_no_doubled_points(disturbed: Campaign, undisturbed: Campaign):
    ours, theirs = tracked(disturbed.home), tracked(undisturbed.home)
    assert ours.keys() == theirs.keys()
    for phase in theirs:
        assert ours[phase].keys() == theirs[phase].keys(), phase
        assert all(len(values) == 1 for values in ours[phase].values()), phase
        timeless = {point for point in theirs[phase] if "seconds" not in point[0]}
        assert {point: ours[phase][point] for point in timeless} == {
            point: theirs[phase][point] for point in timeless
        }, phase


def test_the_stores_hold_the_same_artifacts_with_the_same_bytes(
    disturbed: Campaign, undisturbed: Campaign
):
    ours, theirs = (Store(campaign.home / "store") for campaign in (disturbed, undisturbed))
    for kind in ("policy", "problems", "rollouts", "column", "training", "evaluation"):
        assert ours.artifacts(kind) == theirs.artifacts(kind)
        for artifact in theirs.artifacts(kind):
            assert ours.damage(artifact) is None
            assert ours.manifest(artifact).files == theirs.manifest(artifact).files, artifact
    assert list((ours.root / "partial").iterdir()) == []
    left = [
        path
        for path in ours.root.rglob("*")
        if path.name.endswith((".tmp", ".sum")) or path.name == ".scratch"
    ]
    assert [path for path in left if path.parent.name != "locks"] == [], (
        "a kill may truncate a note of a lock's holder, which is no artifact"
    )


def test_the_registry_says_it_is_completed(disturbed: Campaign):
    registry = Registry(f"sqlite:///{disturbed.home / 'registry.db'}")
    (campaign,) = registry.campaigns()
    assert campaign.status == "completed" and campaign.finished_at is not None
    statuses = [iteration.status for iteration in registry.iterations(campaign.id)]
    assert statuses == ["completed", "completed"]
    registry.close()


def test_nothing_is_left_running_or_written_elsewhere(disturbed: Campaign):
    assert processes_of(disturbed.home) == []
    assert (
        list((disturbed.folder / "cwd").iterdir())
        == list((disturbed.folder / "user").iterdir())
        == []
    )
