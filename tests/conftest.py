"""Fixtures of all tests.

`ERPD_HOME` is set to a temporary directory before any test module is imported.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from helpers import Campaign, World
    from study_lab import Lab


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-long", action="store_true", help="leave out the tests marked long")
    parser.addoption(
        "--changed-since",
        metavar="REF",
        help="with --without-long: run the long tests of packages that differ from this commit",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--without-long"):
        from long_tests import leave_out

        leave_out(config, items)


_shared: list[Path] = []


def pytest_configure(config: pytest.Config) -> None:
    from sharing import open_folder

    if folder := open_folder():
        _shared.append(folder)
    os.environ["ERPD_HOME"] = tempfile.mkdtemp(prefix="erpd-tests-")
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (its name); default 15: next to other work they starve into time-outs
    # Waiting OpenMP threads spin by default: two trainings at once on two cores then take four
    # times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Ray reads both once per process: the mode at import, the token when it first connects.
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(Path(os.environ["ERPD_HOME"]) / "ray-token"),
    }


def pytest_unconfigure(config: pytest.Config) -> None:
    for folder in (os.environ["ERPD_HOME"], *_shared):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server for the tests, started once."""
    from postgres import server

    with server() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def registry_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty registry database, of both supported kinds. SQLite's folder does not exist yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/100% new/registry.db"
        return
    from postgres import empty_database

    with empty_database(request.getfixturevalue("postgres")) as url:
        yield url


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The embedded base, 64 of its training problems, 8 graded samples of each, their column.

    Tests may add to the store but must not damage it.
    """
    from helpers import World, context

    from erpd_core.config import EmbeddedModel, SamplingConfig, TinyProblems
    from tasks.datasets import draw_problems
    from tasks.execution.stage import get_or_compute
    from tasks.models.import_policy import import_policy
    from tasks.rollouts import SampleRollouts
    from tasks.rollouts.score import ScoreRollouts
    from tasks.store import Store

    here = context(Store(tmp_path_factory.mktemp("world")))
    base = get_or_compute(import_policy(EmbeddedModel()), here)
    problems = get_or_compute(draw_problems("prompts", TinyProblems(count=64), 7), here)
    sampling = SamplingConfig(samples=8, temperature=1.0, max_new_tokens=24, shard=24)
    rollouts = get_or_compute(
        SampleRollouts(policy=base, problems=problems, sampling=sampling, seed=7), here
    )
    old = get_or_compute(ScoreRollouts(policy=base, rollouts=rollouts), here)
    return World(here.store, base, problems, rollouts, old)


@pytest.fixture
def short_home() -> Iterator[Path]:
    """A home with a path short enough for Ray's sockets, not the working directory of a process."""
    folder = Path(tempfile.mkdtemp(prefix="e-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def study_lab(tmp_path: Path) -> Iterator[Lab]:
    """An empty registry and store for a study that a test writes itself."""
    from study_lab import Lab

    lab = Lab(tmp_path)
    yield lab
    lab.registry.close()


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A study with its report. Tests only read it."""
    from study_lab import Lab, study_of

    lab = Lab(tmp_path_factory.mktemp("study")).run()
    lab.write(study_of())
    yield lab
    lab.registry.close()


@pytest.fixture(scope="session")
def undisturbed() -> Campaign:
    """The shrunk campaign, run once to its end by the real command with a separate home."""
    from helpers import run_campaign
    from sharing import once

    return once("undisturbed", lambda folder: run_campaign(folder, "iterations=2"))
