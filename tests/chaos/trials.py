"""One trial: a campaign starts and a victim is killed with SIGKILL at a random instant.

An operator restarts the victim, and repeats the command if the campaign failed. Then everything is
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

from campaign_requests import CampaignRequest, Command
from checks import Snapshot, differences, snapshot
from services import Stack, kill
from victims import VICTIMS, Victim

PATIENCE = 900.0
"""Seconds that a command may take, even if disturbed."""
ENDING = 20.0
"""Seconds that processes may take to end once a trial is over."""
AGAIN = 3
"""How often the same command is repeated at most."""
ATTEMPTS = 3
SHARE = 0.7
"""Instants are drawn from this fraction of the time in which the undisturbed run had the victim.

A later run is faster than the first one. After an instant that was too late, the fraction is
smaller.
"""
ENDED, EQUAL = "ended", "equal"


@dataclass
class Reference:
    """The undisturbed run."""

    state: Snapshot
    seconds: float
    seen: dict[str, tuple[float, float]]
    """Victim -> when it was there first and last, in seconds since the command.

    Without victims that need a trial's own changes.
    """


@dataclass
class Trial:
    """Record of a trial."""

    trial: int
    seed: int
    victim: str
    instant: float
    """Planned time of the kill, in seconds since the command; `killed` is the actual time."""
    killed: float | None = None
    found: list[str] = field(default_factory=list)
    """Titles of the killed processes."""
    again: int = 0
    """How often the command was repeated."""
    seconds: float = 0.0
    outcome: str = "killed nobody"
    """`equal`, or the differences."""


def clear(stack: Stack) -> None:
    """Empty the store. In registry, MLflow and Prefect, each campaign has a different name."""
    for name in ("store", "logs", "reports"):
        shutil.rmtree(stack.home / name, ignore_errors=True)


def run_undisturbed(stack: Stack) -> Reference:
    """Run the campaign undisturbed and record when each victim is there."""
    clear(stack)
    began = time.monotonic()
    request = Command(stack, "undisturbed")
    seen: dict[str, tuple[float, float]] = {}
    try:
        while not request.ended():
            now = time.monotonic() - began
            assert now < PATIENCE, f"it did not end within {PATIENCE:.0f} s: {request.message()}"
            for victim in VICTIMS:
                if victim.by is Command and victim.find(stack, request):
                    seen[victim.name] = (seen.get(victim.name, (now, now))[0], now)
            time.sleep(0.5)
        assert request.succeeded(), request.message()
        return Reference(snapshot(stack, request.result()), time.monotonic() - began, seen)
    finally:
        request.stop()


def run(stack: Stack, number: int, seed: int, reference: Reference) -> Trial:
    """Run trial `number` (1, 2, ...).

    Its victim is the next in turn; its instant depends on seed and number.

    If a campaign ends before its victim is there again, another one starts with an earlier instant.
    """
    victim = VICTIMS[(number - 1) % len(VICTIMS)]
    chance = random.Random(f"{seed}/{number}")
    first, last = reference.seen.get(victim.name, (0.0, reference.seconds))
    for attempt in range(ATTEMPTS):
        instant = chance.uniform(first, first + SHARE ** (attempt + 1) * (last - first))
        trial = Trial(number, seed, victim.name, round(instant, 2))
        _attempt(stack, victim, trial, chance.uniform(0, 3), f"trial-{number}-{attempt}", reference)
        if trial.found:
            break
    return trial


def _attempt(
    stack: Stack, victim: Victim, trial: Trial, reaction: float, name: str, reference: Reference
) -> None:
    """Run one campaign and record it in `trial`; the operator reacts after `reaction` seconds."""
    clear(stack)
    request = victim.by(stack, name, *victim.changes)
    began = time.monotonic()
    try:
        _kill_victim(stack, request, victim, trial, began)
        if trial.found:
            time.sleep(reaction)
            victim.bring_back(stack)
            trial.outcome = _wait_for_end(request, trial)
        if trial.outcome == ENDED:
            wrong = differences(stack, request.result(), reference.state)
            trial.outcome = "; ".join(wrong) or EQUAL
    finally:
        request.stop()
    if left := stack.leftovers(ENDING):
        trial.outcome = f"processes are left: {left}; {trial.outcome}"
    trial.seconds = round(time.monotonic() - began, 1)


def _kill_victim(
    stack: Stack, request: CampaignRequest, victim: Victim, trial: Trial, began: float
) -> None:
    """Kill the victim at the planned instant, or as soon after it as the victim is there."""
    _until(lambda: time.monotonic() - began >= trial.instant or request.ended())
    while not request.ended():
        if processes := victim.find(stack, request):
            titles = [title(process.cmdline()) for process in processes]
            trial.killed = round(time.monotonic() - began, 2)
            kill(processes)
            trial.found = titles
            return
        time.sleep(0.02)


def title(command: list[str]) -> str:
    """The beginning of a process's command line, without the folders of the machine.

    **Example:** `title(["/a/bin/python", "-m", "prefect.engine"]) == "python -m prefect.engine"`
    """
    return re.sub(r"(?<![:/\w])/\S*/", "", " ".join(command))[:120].strip()


def _wait_for_end(request: CampaignRequest, trial: Trial) -> str:
    while True:
        if not _until(request.ended):
            return f"did not end within {PATIENCE:.0f} s: {request.message()}"
        if request.succeeded():
            return ENDED
        if trial.again == AGAIN:
            return f"failed {AGAIN + 1} times: {request.message()}"
        trial.again += 1
        request.begin()


def _until(condition: Callable[[], Any]) -> bool:
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
