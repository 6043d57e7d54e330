"""SIGTERM to `erpd run` while Ray works: it ends soon, in one line, and nothing of it is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import campaign_arguments, environment, events, no_process_left, wait_until

from tasks.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.ray]
LONG = ("iterations=1", "runtime.ray=on", "teacher.steps=100000", "teacher.keep=[]")


def test_a_stopped_campaign_says_so_and_leaves_no_process(short_home: Path):
    command = [sys.executable, "-m", "deployments.cli", *campaign_arguments(*LONG)]
    home = short_home / "h"
    process = subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=short_home)
    try:
        assert wait_until(lambda: any("train teacher" in one.get("label", "") for one in events(home)) or process.poll() is not None, 240)
        time.sleep(1)  # it waits for Ray by now
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (1, "")
    assert err.splitlines()[-1] == "erpd: interrupted; the same command goes on from here" and "Traceback" not in err, err
    assert no_process_left(home) == []
    registry = Registry(f"sqlite:///{home / 'registry.db'}")
    assert [one.status for one in registry.campaigns()] == ["killed"]
    registry.close()
