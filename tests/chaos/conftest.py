"""How many trials, from which on, with which instants, and where they are written down; the
services, and the undisturbed run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from services import House
    from trials import Reference, Trial

Record = dict[str, Any]
MADE = pytest.StashKey[list[Record]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption(
        "--trials", type=int, default=1, help="how many victims are killed, one a campaign"
    )
    group.addoption(
        "--first", type=int, default=1, help="the trial to begin with: victims are taken in turn"
    )
    group.addoption("--seed", type=int, default=0, help="the instants follow from it")
    group.addoption(
        "--records",
        type=Path,
        default=None,
        help="a file of one JSON line a trial; those it has are not done again",
    )


def settings(config: pytest.Config) -> tuple[int, int, int, Path | None]:
    """(trials, first, seed, records), also where these options are not known: pytest reads this
    file first only when it is named.
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
def house() -> Iterator[House]:
    from services import house

    with house() as one:
        yield one


@pytest.fixture(scope="module")
def reference(house: House) -> Reference:
    from trials import run_undisturbed

    return run_undisturbed(house)


@pytest.fixture
def write(request: pytest.FixtureRequest) -> Callable[[Trial], None]:
    """Writes a trial down, for the summary and for whoever goes on from there. One that killed
    nobody counts for nothing.
    """

    def add(trial: Trial) -> None:
        if not trial.found:
            return
        record = asdict(trial)
        request.config.stash.setdefault(MADE, []).append(record)
        if path := settings(request.config)[3]:
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")

    return add


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    records = done_before(config) if settings(config)[3] else config.stash.get(MADE, [])
    if records:
        equal = sum(record["outcome"] == "equal" for record in records)
        again = sum(record["again"] > 0 for record in records)
        terminalreporter.write_line(
            f"chaos: {len(records)} trials, {len({record['victim'] for record in records})} "
            f"victims, {equal} ended equal to an undisturbed"
            f" run, {len(records) - equal} differed, {again} needed the command again"
        )
