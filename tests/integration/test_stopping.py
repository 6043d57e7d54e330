"""After SIGTERM or the death of Ray's node, `erpd run` ends soon with one line and no process."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import (
    campaign_arguments,
    environment,
    events,
    migrated,
    no_process_left,
    processes_of,
    wait_until,
)

from tasks.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.ray]
LONG = (
    "iterations=1",
    "runtime.ray=on",
    "teacher.steps=100000",
    "teacher.keep=[]",
    "prompts.count=16",
    "sampling.samples=4",
    "evaluation.validation.count=8",
    "evaluation.benchmarks.test.count=8",
)


ARMS = """
description: Three teachers that would train for hours.
pictures: [gains]
common:
  iterations: 1
  decision: {fixed: [none]}
  prompts: {count: 16}
  sampling: {samples: 4, shard: 16}
  evaluation: {validation: {count: 8}, benchmarks: {test: {count: 8}}, sampling: {samples: 2}, validation_sampling: {samples: 2}}
scales:
  tiny: {runtime: {ray: "on", cpus: 1}, teacher: {steps: 100000, keep: [], minibatch: 16}}
arms:
  - {name: slow, set: {teacher: {optimizer: {lr: 1.0e-6}}}}
  - {name: middle, set: {teacher: {optimizer: {lr: 2.0e-6}}}}
  - {name: fast, set: {teacher: {optimizer: {lr: 3.0e-6}}}}
"""  # noqa: E501


def send(name: str) -> Callable[[subprocess.Popen[str], Path], None]:
    return lambda process, home: process.send_signal(getattr(signal, name))


def node_killed(process: subprocess.Popen[str], home: Path) -> None:
    (raylet,) = [process for process in processes_of(home) if process.name() == "raylet"]
    raylet.kill()


def stopped(
    command: list[str],
    home: Path,
    training: int,
    interrupt: Callable[[subprocess.Popen[str], Path], None],
) -> str:
    """Run a command, call `interrupt` once `training` teachers train, and wait for the end. It must
    exit with code 1, an empty stdout and no process left.

    **Returns:** The last line of stderr.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.cli", *command],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home.parent,
    )

    def trained() -> int:
        return sum(
            "train teacher" in event.get("label", "") and event.get("status") == "started"
            for event in events(home)
        )

    try:
        assert wait_until(lambda: trained() >= training or process.poll() is not None, 240)
        time.sleep(1)  # until it waits for Ray
        interrupt(process, home)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (1, "") and "Traceback" not in err, err
    assert no_process_left(home) == []
    return err.splitlines()[-1]


@pytest.mark.parametrize(
    ("interrupt", "says"),
    [
        pytest.param(send("SIGTERM"), "interrupted", id="told"),
        pytest.param(
            node_killed,
            r"Ray's node of this process \(\S+\) is gone, killed or out of memory; .*",
            id="node",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_stopped_campaign_says_so_and_leaves_no_process(
    short_home: Path, interrupt: Callable[..., None], says: str
):
    home = migrated(short_home / "h")
    line = stopped(campaign_arguments(*LONG), home, 1, interrupt)
    assert re.fullmatch(f"erpd: {says}; rerun the same command to resume", line), line
    registry = Registry(f"sqlite:///{home / 'registry.db'}")
    assert [campaign.status for campaign in registry.campaigns()] == ["killed"]
    registry.close()


@pytest.mark.long
def test_a_stopped_study_wakes_the_arms_that_wait(short_home: Path):
    """Two arms train and the third waits for capacity; each has a thread that waits for Ray."""
    home, study = migrated(short_home / "h"), short_home / "arms.yaml"
    study.write_text(ARMS)
    line = stopped(["run", str(study), "--json"], home, 2, send("SIGTERM"))
    assert line == "erpd: interrupted; rerun the same command to resume"
