"""Helpers for tests of Ray actors: a separate Ray and its workers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from helpers import ROOT, no_process_left, processes_of

from erpd_core.config import RuntimeConfig
from tasks.host.home import prepare


@contextmanager
def own_ray(**environment: str) -> Iterator[Path]:
    """Start a Ray of 2 CPUs with a separate home, whose path is short enough for Ray's sockets.

    Its actors may be classes of tests.
    """
    from tasks.execution.ray_cluster import ensure_ray, stop_ray

    before = dict(os.environ)
    home = Path(tempfile.mkdtemp(prefix="e-", dir="/tmp"))
    for name in [
        name for name in os.environ if name.startswith("RAY_") and not name.startswith("RAY_AUTH_")
    ]:
        del os.environ[name]
    tests = ROOT / "tests"
    own = {
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, tests, tests / "integration"))),
        "ERPD_HOME": str(home),
    }
    os.environ.update(own | environment)
    prepare()
    ensure_ray(RuntimeConfig(cpus=2))
    yield home
    stop_ray()
    os.environ.clear()
    os.environ.update(before)
    assert no_process_left(home) == []
    shutil.rmtree(home, ignore_errors=True)


def ray_workers(*names: str) -> list[psutil.Process]:
    """Worker processes of this test's Ray whose task or actor has one of these names."""
    workers = []
    for process in processes_of(Path(os.environ["ERPD_HOME"])):
        with suppress(psutil.Error):  # the process has ended
            if any(f"ray::{name}" in " ".join(process.cmdline()) for name in names):
                workers.append(process)
    return workers
