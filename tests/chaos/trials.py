"""One trial: a campaign begins, at a random instant a victim is killed with -9, an operator brings
back what was killed and gives the same command again if it did not end well; then everything is
compared with an undisturbed run.
"""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from asked import Asked, Command
from checks import Snapshot, differences, snapshot
from services import House, kill
from victims import VICTIMS, Victim

PATIENCE = 900.0
"""Seconds a command may take, however disturbed."""
ENDING = 20.0
"""Seconds that processes may take to end once a trial is over."""
AGAIN = 3
"""How often the same command is given again at most."""
ATTEMPTS = 3
SHARE = 0.7
"""Instants are drawn from this part of the time in which the reference had the victim, for a later
run is quicker than the first; from less when that was too late.
"""
ENDED, EQUAL = "ended", "equal"


@dataclass
class Reference:
    """The undisturbed run."""

    state: Snapshot
    seconds: float
    seen: dict[str, tuple[float, float]]
    """Victim -> when it was there first and last, in seconds since the command; not those that
    only a trial's own changes bring about.
    """


@dataclass
class Trial:
    """What is recorded of a trial."""

    trial: int
    seed: int
    victim: str
    instant: float
    """When it was to be killed, in seconds since the command; `killed` is when it was."""
    killed: float | None = None
    found: list[str] = field(default_factory=list)
    """What was killed."""
    again: int = 0
    """How often the command was given again."""
    seconds: float = 0.0
    outcome: str = "killed nobody"
    """`equal`, or what differed."""


def clear(house: House) -> None:
    """An empty store; registry, MLflow and Prefect know this campaign by a name of its own."""
    for name in ("store", "logs", "reports"):
        shutil.rmtree(house.home / name, ignore_errors=True)


def run_undisturbed(house: House) -> Reference:
    """Run the campaign undisturbed, and see when each victim is there."""
    clear(house)
    began = time.monotonic()
    asked = Command(house, "undisturbed")
    seen: dict[str, tuple[float, float]] = {}
    try:
        while not asked.ended():
            now = time.monotonic() - began
            assert now < PATIENCE, f"it did not end within {PATIENCE:.0f} s: {asked.said()}"
            for victim in VICTIMS:
                if victim.by is Command and victim.find(house, asked):
                    seen[victim.name] = (seen.get(victim.name, (now, now))[0], now)
            time.sleep(0.5)
        assert asked.succeeded(), asked.said()
        return Reference(snapshot(house, asked.result()), time.monotonic() - began, seen)
    finally:
        asked.stop()


def run(house: House, number: int, seed: int, reference: Reference) -> Trial:
    """Trial `number` (1, 2, ...): its victim is the next in turn, its instant follows from seed and
    number.

    A campaign that is over before its victim was there again is no trial: another begins, with an
    earlier instant.
    """
    victim = VICTIMS[(number - 1) % len(VICTIMS)]
    chance = random.Random(f"{seed}/{number}")
    first, last = reference.seen.get(victim.name, (0.0, reference.seconds))
    for attempt in range(ATTEMPTS):
        instant = chance.uniform(first, first + SHARE ** (attempt + 1) * (last - first))
        trial = Trial(number, seed, victim.name, round(instant, 2))
        _attempt(house, victim, trial, chance.uniform(0, 3), f"trial-{number}-{attempt}", reference)
        if trial.found:
            break
    return trial


def _attempt(
    house: House, victim: Victim, trial: Trial, noticed: float, name: str, reference: Reference
) -> None:
    """What happens is written into `trial`. Somebody notices `noticed` seconds after the kill."""
    clear(house)
    asked = victim.by(house, name, *victim.changes)
    began = time.monotonic()
    try:
        _strike(house, asked, victim, trial, began)
        if trial.found:
            time.sleep(noticed)
            victim.bring_back(house)
            trial.outcome = _see_it_end(asked, trial)
        if trial.outcome == ENDED:
            wrong = differences(house, asked.result(), reference.state)
            trial.outcome = "; ".join(wrong) or EQUAL
    finally:
        asked.stop()
    if left := house.left(ENDING):
        trial.outcome = f"processes are left: {left}; {trial.outcome}"
    trial.seconds = round(time.monotonic() - began, 1)


def _strike(house: House, asked: Asked, victim: Victim, trial: Trial, began: float) -> None:
    """At the instant, or the first moment after it at which the victim is there."""
    _until(lambda: time.monotonic() - began >= trial.instant or asked.ended())
    while not asked.ended():
        if processes := victim.find(house, asked):
            titles = [title(process.cmdline()) for process in processes]
            trial.killed = round(time.monotonic() - began, 2)
            kill(processes)
            trial.found = titles
            return
        time.sleep(0.02)


def title(command: list[str]) -> str:
    """A process's beginning, without the folders of the machine it ran on.

    Example: `title(["/a/bin/python", "-m", "prefect.engine"]) == "python -m prefect.engine"`
    """
    return re.sub(r"(?<![:/\w])/\S*/", "", " ".join(command))[:120].strip()


def _see_it_end(asked: Asked, trial: Trial) -> str:
    while True:
        if not _until(asked.ended):
            return f"did not end within {PATIENCE:.0f} s: {asked.said()}"
        if asked.succeeded():
            return ENDED
        if trial.again == AGAIN:
            return f"failed {AGAIN + 1} times: {asked.said()}"
        trial.again += 1
        asked.begin()


def _until(condition: Callable[[], Any]) -> bool:
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
