"""Options and fixtures of the chaos tests: trials, seed, records, services, undisturbed run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from services import Stack
    from trials import Reference, Trial

Record = dict[str, Any]
RECORDS = pytest.StashKey[list[Record]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption(
        "--trials",
        type=int,
        default=1,
        help="number of trials: one killed victim, one campaign each",
    )
    group.addoption(
        "--first", type=int, default=1, help="number of the first trial: victims are taken in turn"
    )
    group.addoption("--seed", type=int, default=0, help="seed of the random instants")
    group.addoption(
        "--records",
        type=Path,
        default=None,
        help="a file with one JSON line per trial; trials that it has are not run again",
    )


def settings(config: pytest.Config) -> tuple[int, int, int, Path | None]:
    """Returns (trials, first, seed, records), with defaults if pytest does not know these options:
    it reads this file early enough only if its folder is an argument.
    """
    return tuple(
        config.getoption(name, value)
        for name, value in {"trials": 1, "first": 1, "seed": 0, "records": None}.items()
    )  # type: ignore[return-value]


def done_before(config: pytest.Config) -> list[Record]:
    _, _, seed, path = settings(config)
    lines = path.read_text().splitlines() if path and path.exists() else []
    return [record for record in map(json.loads, lines) if record["seed"] == seed]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "number" in metafunc.fixturenames:
        trials, first, _, _ = settings(metafunc.config)
        known = {record["trial"] for record in done_before(metafunc.config)}
        metafunc.parametrize(
            "number", [number for number in range(first, first + trials) if number not in known]
        )


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    from services import running_stack

    with running_stack() as stack:
        yield stack


@pytest.fixture(scope="module")
def reference(stack: Stack) -> Reference:
    from trials import run_undisturbed

    return run_undisturbed(stack)


@pytest.fixture
def write(request: pytest.FixtureRequest) -> Callable[[Trial], None]:
    """Records a trial for the summary and for later runs. One that killed no process is ignored."""

    def add(trial: Trial) -> None:
        if not trial.found:
            return
        record = asdict(trial)
        request.config.stash.setdefault(RECORDS, []).append(record)
        if path := settings(request.config)[3]:
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")

    return add


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    records = done_before(config) if settings(config)[3] else config.stash.get(RECORDS, [])
    if records:
        equal = sum(record["outcome"] == "equal" for record in records)
        again = sum(record["again"] > 0 for record in records)
        terminalreporter.write_line(
            f"chaos: {len(records)} trials, {len({record['victim'] for record in records})} "
            f"victims, {equal} ended equal to an undisturbed"
            f" run, {len(records) - equal} differed, {again} needed the command again"
        )
