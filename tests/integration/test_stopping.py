"""SIGTERM to `erpd run` while Ray works, or the end of Ray's node: it ends soon, in one line,
and nothing of it is left.
"""

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


def told(name: str) -> Callable[[subprocess.Popen[str], Path], None]:
    return lambda process, home: process.send_signal(getattr(signal, name))


def node_killed(process: subprocess.Popen[str], home: Path) -> None:
    (raylet,) = [one for one in processes_of(home) if one.name() == "raylet"]
    raylet.kill()


def stopped(
    command: list[str],
    home: Path,
    training: int,
    strike: Callable[[subprocess.Popen[str], Path], None],
) -> str:
    """Run a command until so many teachers train, strike, and let it end: with exit code 1, nothing
    on stdout, and no process left.

    Returns the last line it said.
    """
    whole = [sys.executable, "-m", "deployments.cli", *command]
    process = subprocess.Popen(
        whole,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home.parent,
    )

    def trained() -> int:
        return sum(
            "train teacher" in one.get("label", "") and one.get("status") == "started"
            for one in events(home)
        )

    try:
        assert wait_until(lambda: trained() >= training or process.poll() is not None, 240)
        time.sleep(1)  # it waits for Ray by now
        strike(process, home)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (1, "") and "Traceback" not in err, err
    assert no_process_left(home) == []
    return err.splitlines()[-1]


@pytest.mark.parametrize(
    ("strike", "says"),
    [
        (told("SIGTERM"), "interrupted"),
        (node_killed, r"Ray's node of this process \(\S+\) is gone, killed or out of memory; .*"),
    ],
    ids=["told", "node"],
)
def test_a_stopped_campaign_says_so_and_leaves_no_process(
    short_home: Path, strike: Callable[..., None], says: str
):
    home = migrated(short_home / "h")
    said = stopped(campaign_arguments(*LONG), home, 1, strike)
    assert re.fullmatch(f"erpd: {says}; the same command goes on from here", said), said
    registry = Registry(f"sqlite:///{home / 'registry.db'}")
    assert [one.status for one in registry.campaigns()] == ["killed"]
    registry.close()


@pytest.mark.long
def test_a_stopped_study_wakes_the_arms_that_wait(short_home: Path):
    """Two arms train, the third waits for room: each has a thread that waits for Ray."""
    home, study = migrated(short_home / "h"), short_home / "arms.yaml"
    study.write_text(ARMS)
    said = stopped(["run", str(study), "--json"], home, 2, told("SIGTERM"))
    assert said == "erpd: interrupted; the same command goes on from here"
