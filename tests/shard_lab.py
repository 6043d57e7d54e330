"""Workers that train a model together as plain processes, without Ray.

They test `tasks.training.fsdp_worker` alone.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import ROOT, context, dying, environment

from erpd_core.refs import TrainingRef
from tasks.store import Store
from tasks.training.student import DistillStudent
from tasks.training.teacher import TrainTeacher

MEMBER = (
    """
import os, pickle, sys
from pathlib import Path
import tasks.training.off_policy
from tasks.training.fsdp_worker import Worker

jobs = pickle.loads(Path(sys.argv[1]).read_bytes())
"""
    + dying("tasks.training.off_policy.optimize")
    + """refs = []
for stage, context, build, rank, rendezvous, die_at in jobs:
    refs.append(Worker(stage, context, build, rank, rendezvous, "127.0.0.1").train())
Path(sys.argv[1]).write_bytes(pickle.dumps(refs))
"""
)


@dataclass(frozen=True)
class Job:
    """A training whose result goes into a store, with changes to its runtime."""

    store: Store
    stage: TrainTeacher | DistillStudent
    runtime: dict[str, Any] = field(default_factory=dict)
    dies: dict[int, int] = field(default_factory=dict)
    """Rank -> the step at which it dies: after the step, before anything of it is written."""


Ended = subprocess.CompletedProcess[str]


def train(jobs: Sequence[Job], workers: int, folder: Path) -> tuple[list[TrainingRef], list[Ended]]:
    """Run the jobs one after the other with `workers` workers.

    Many jobs cost little more than one: most time goes into starting a worker.

    **Returns:** Each job's result (none if a worker died), and how the workers ended.
    """
    with ExitStack() as stack:
        builds = [
            stack.enter_context(
                j.store.build(j.stage.KIND, j.stage.spec(), j.stage.inputs(), j.stage.VERSION)
            )
            for j in jobs
        ]
        assert all(builds), "no result is in the store yet"
        rendezvous_files = [folder / uuid.uuid4().hex for _ in jobs]
        files = [folder / f"{uuid.uuid4().hex}.pickle" for _ in range(workers)]
        for rank, file in enumerate(files):
            given = [
                (
                    job.stage,
                    context(job.store, trainers=workers, cpus=1, **job.runtime),
                    build,
                    rank,
                    rendezvous,
                    job.dies.get(rank),
                )
                for job, build, rendezvous in zip(jobs, builds, rendezvous_files, strict=True)
            ]
            file.write_bytes(pickle.dumps(given))
        ended = _run(files, folder)
        if any(process.returncode for process in ended):
            return [], ended
        results = [pickle.loads(file.read_bytes()) for file in files]
        assert all(result == results[0] for result in results), "all workers have the same results"
        for build, ref in zip(builds, results[0], strict=True):
            build.commit({"ref": ref.model_dump(mode="json")})
        return results[0], ended


def _run(files: Sequence[Path], folder: Path) -> list[Ended]:
    own = environment(folder, PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}", OMP_NUM_THREADS="1")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen([sys.executable, "-c", MEMBER, str(file)], env=own, **pipes)
        for file in files
    ]
    ended = []
    for process in processes:
        out, err = process.communicate(timeout=500)
        ended.append(Ended(process.args, process.returncode, out, err))
    return ended


def starts(process: Ended) -> list[int]:
    """The step that each of a worker's jobs began at."""
    return [
        int(line.removeprefix("from "))
        for line in process.stdout.splitlines()
        if line.startswith("from ")
    ]


def without(store: Store, folder: Path, *trainings: TrainingRef) -> Store:
    """A copy of the store without some trainings and their policies."""
    shutil.copytree(store.root, folder)
    copy = Store(folder)
    for training in trainings:
        for artifact in (training.id, *(policy.id for policy in training.trail)):
            copy.discard(artifact)
    return copy
