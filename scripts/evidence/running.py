"""Runs the studies that have no record yet, seed by seed, with the command that a user types."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from flows.ablation import begun
from flows.recipes.studies import load_study
from flows.steps.preflight import study_campaigns
from scripts.evidence.followups import SINGLE_RUNS, STUDIES_AFTER
from scripts.evidence.peer import trl_arm
from scripts.evidence.record import Record, arm_record, record_path
from tasks.host.atomic_files import write_atomically
from tasks.registry import open_registry
from tasks.store import open_store

STUDIES = Path(__file__).parent / "studies"
PEERS = {"clock": ("trl", "online"), "clock_smollm2": ("trl", "online")}
"""Study -> name of an additional arm that TRL trains, and the arm whose settings it has."""


LOOKED_AT = 3
"""Explanations were derived from seeds below this one and are tested on seeds from it on."""


def study_names() -> list[str]:
    """Return the names of all studies, sorted."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def is_asked(study: str, seed: int) -> bool:
    """Return True if a study runs on a seed.

    Studies of follow-ups do not run on the seeds that their explanations were derived from, and
    those on a single seed only on seed 0.
    """
    if any(study == single.study for single in SINGLE_RUNS.values()):
        return seed == 0
    return seed >= LOOKED_AT or study not in STUDIES_AFTER


def command(study: str, seed: int) -> list[str]:
    """Return the `erpd run` command of a study on a seed."""
    path = STUDIES / f"{study}.yaml"
    return [
        sys.executable,
        "-m",
        "deployments.cli",
        "run",
        str(path),
        "--set",
        f"seed={seed}",
        "--json",
    ]


def run_missing(
    studies: Sequence[str], seeds: Sequence[int], folder: Path, console: Console
) -> list[str]:
    """Run every requested study and seed without a record in `folder`.

    Each record is written when its study is done, so that an interruption loses at most one. A
    failure does not stop the others.

    **Returns:** The studies and seeds that failed, in the order they were run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    requested = [(study, seed) for seed in seeds for study in studies if is_asked(study, seed)]
    missing = [
        (study, seed) for study, seed in requested if not record_path(folder, study, seed).exists()
    ]
    failed = []
    bars = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*bars, console=console) as progress:
        bar = progress.add_task("studies", total=len(missing))
        for study, seed in missing:
            progress.update(bar, description=f"{study}, seed {seed}")
            try:
                record = run(study, seed)
            except subprocess.CalledProcessError:
                failed.append(f"{study}, seed {seed}")
            else:
                text = json.dumps(record.model_dump(mode="json"), separators=(",", ":"))
                write_atomically(
                    record_path(folder, study, seed), partial(Path.write_text, data=text + "\n")
                )
            progress.advance(bar)
    return failed


def run(study: str, seed: int) -> Record:
    """Run a study on a seed and return its record.

    Raises subprocess.CalledProcessError if the command failed; it has printed the reason.
    """
    started = time.monotonic()
    subprocess.run(command(study, seed), stdout=subprocess.DEVNULL, check=True)
    seconds = time.monotonic() - started
    registry, store = open_registry(), open_store()
    arms = begun(study_campaigns(load_study(str(STUDIES / f"{study}.yaml"), [f"seed={seed}"])))
    records = {name: arm_record(registry, store, campaign) for name, campaign in arms.items()}
    if study in PEERS:
        peer, arm = PEERS[study]
        records[peer] = trl_arm(registry, store, arms[arm])
    commits = {registry.campaign(campaign).git_commit for campaign in arms.values()}
    registry.close()
    return Record(
        study=study,
        seed=seed,
        commit=max(filter(None, commits), default=None),
        seconds=round(seconds, 1),
        arms=records,
    )
