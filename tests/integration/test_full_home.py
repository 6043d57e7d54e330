"""A full disk under ERPD_HOME ends a campaign with one line; with space again, it resumes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import Disk, small_disk
from helpers import (
    Campaign,
    campaign_arguments,
    environment,
    erpd,
    events,
    numbers,
    processes_of,
    run_campaign,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture
def disk() -> Iterator[Disk]:
    with (
        tempfile.TemporaryDirectory(prefix="e-", dir="/tmp") as name,
        small_disk(Path(name) / "home", "150m") as disk,
    ):
        yield disk


def test_a_campaign_whose_disk_fills_ends_with_one_line_and_goes_on_when_there_is_room(
    disk: Disk, undisturbed: Campaign
):
    home, arguments = disk.path, campaign_arguments("iterations=2")
    command = [sys.executable, "-m", "deployments.cli", *arguments]
    with (home.parent / "log.txt").open("w+") as log:
        running = subprocess.Popen(
            command, env=environment(home), cwd=home.parent, stdout=log, stderr=log
        )
        try:
            assert wait_until(
                lambda: any(
                    event.get("label", "").startswith("1: train teacher") for event in events(home)
                ),
                400,
            ), running.poll()
            disk.fill()
            assert wait_until(lambda: disk.fill() or running.poll() is not None, 200), (
                "the campaign hangs on a full disk"
            )
        finally:
            running.kill()
            running.wait()
        log.seek(0)
        printed = log.read()
    assert running.returncode == 1, printed
    (line,) = [line for line in printed.splitlines() if line.startswith("erpd: ")]
    assert line == f"erpd: {home} is full; make room there, then rerun the same command to resume"
    assert wait_until(lambda: not processes_of(home), 20)

    disk.make_room()
    again = run_campaign(home.parent, arguments=arguments, timeout=600)
    assert numbers(again.result) == numbers(undisturbed.result)

    report = Path(again.result["report"])
    before = report.read_bytes()
    disk.fill()
    full = erpd("report", "tiny", home=home)
    assert full.returncode == 1 and full.stderr.splitlines()[-1].startswith(
        f"erpd: {home} is full; make room there"
    ), full.stderr
    assert report.read_bytes() == before, "the earlier report is kept"
