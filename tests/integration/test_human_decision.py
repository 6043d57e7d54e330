"""`decision.mode: ask` with a real Prefect server.

The campaign waits, `erpd decide` answers, a kill loses nothing, and the time limit applies.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    Campaign,
    campaign_arguments,
    environment,
    erpd,
    migrated,
    run_campaign,
    wait_until,
)

from tasks.registry import Registry

pytestmark = pytest.mark.slow
ASK = ("decision.mode=ask", "iterations=1")


@pytest.fixture
def folder(undisturbed: Campaign, tmp_path: Path) -> Path:
    """A folder whose home has the undisturbed campaign's artifacts: earlier stages are cached."""
    shutil.copytree(undisturbed.home / "store", migrated(tmp_path / "home") / "store")
    return tmp_path


@contextmanager
def waiting(folder: Path, arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start the campaign; yields its process once it waits for a user's decision."""
    for name in ("cwd", "user"):
        (folder / name).mkdir()
    home = folder / "home"
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", *arguments],
            env=environment(home, HOME=str(folder / "user")),
            cwd=folder / "cwd",
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        assert wait_until(
            lambda: list((home / "waiting").glob("*.json")) or process.poll() is not None, 240
        )
        assert process.poll() is None, (folder / "log.txt").read_text()
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def decision(folder: Path) -> Any:
    registry = Registry(f"sqlite:///{folder / 'home' / 'registry.db'}")
    (campaign,) = registry.campaigns()
    (iteration,) = registry.iterations(campaign.id)
    registry.close()
    return iteration.decision


def test_a_person_decides_at_the_command_line_and_is_not_asked_again(folder: Path):
    arguments, home = campaign_arguments(*ASK), folder / "home"
    with waiting(folder, arguments) as process:
        shown = erpd("decide", home=home)
        name = next((home / "waiting").glob("*.json")).name.removesuffix("-1.json")
        assert (
            "Automatic decision: S1" in shown.stdout
            and f"erpd decide {name} --strategy S1|" in shown.stdout
        )
        wrong = erpd("decide", name, "--strategy", "S3", home=home)
        assert (
            wrong.returncode == 2
            and "possible are S1, " in wrong.stderr
            and "Traceback" not in wrong.stderr
        )
        done = erpd(
            "decide",
            name,
            "--strategy",
            "S1",
            "--steps",
            3,
            "--by",
            "Ada",
            "--why",
            "it is late",
            home=home,
        )
        assert done.returncode == 0, done.stderr
        assert wait_until(lambda: not list((home / "waiting").glob("*.json")), 60)
        assert wait_until(lambda: decision(folder) is not None, 60)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    result = run_campaign(folder, arguments=arguments).result
    asked = result["iterations"][0]["decision"]["evidence"]["asked"]
    assert (asked["by"], asked["why"], asked["steps"]) == ("Ada", "it is late", 3)
    assert result["iterations"][0]["decision"]["reason"] == "chosen by Ada: it is late"
    registry = Registry(f"sqlite:///{home / 'registry.db'}")
    students = [
        entry.artifact.meta["ref"]["step"]
        for entry in registry.artifacts(result["campaign"])
        if entry.role == "student"
    ]
    registry.close()
    assert students == [3], "the steps of the user's answer"
    nothing = erpd("decide", result["campaign"], "--strategy", "S1", home=home)
    assert nothing.returncode == 2 and "has no pending decision" in nothing.stderr


def test_without_an_answer_the_automatic_decision_is_taken(folder: Path):
    ran: Campaign = run_campaign(folder, *ASK, "runtime.answer_seconds=4")
    (iteration,) = ran.result["iterations"]
    assert (
        iteration["strategy"] == "S1"
        and iteration["decision"]["evidence"]["asked"]["by"] == "nobody"
    )
    assert not list((folder / "home" / "waiting").glob("*.json"))
