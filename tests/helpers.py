"""Helpers of several test files: contexts, damage, command lines, processes, campaigns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from erpd_core.config import RuntimeConfig
from erpd_core.refs import LogprobRef, PolicyRef, ProblemsRef, RolloutRef
from tasks.execution.progress import Progress
from tasks.execution.stage import Context
from tasks.store import Store

ROOT = Path(__file__).parents[1]

SHRUNK = (
    "prompts.count=48",
    "sampling.samples=8",
    "sampling.shard=16",
    "teacher.loss={kind: ce, beta: 0.05}",
    "teacher.optimizer.lr=4e-5",
    "teacher.minibatch=64",
    "teacher.steps=60",
    "teacher.keep=[30]",
    "distill.loss={kind: distill}",
    "distill.optimizer.lr=1e-4",
    "distill.steps=6",
    "distill.keep=[]",
    "distill.kl_budget_of_teacher=null",
    "evaluation.validation.count=32",
    "evaluation.validation_sampling.samples=16",
    "evaluation.validation_sampling.shard=16",
    "evaluation.selection={kind: race, round: 4}",
    "evaluation.benchmarks.test.count=32",
    "evaluation.sampling.samples=4",
    "evaluation.sampling.shard=16",
)
"""Overrides that shrink `tiny` to a campaign of seconds.

They set the losses too, so that tuning the recipe does not change these tests.
"""


@dataclass(frozen=True)
class World:
    """The embedded base in its own store, with a graded batch of its samples and their column."""

    store: Store
    base: PolicyRef
    problems: ProblemsRef
    rollouts: RolloutRef
    old: LogprobRef

    @property
    def context(self) -> Context:
        return context(self.store)


def context(store: Store, events: Path | None = None, **runtime: Any) -> Context:
    return Context(store, RuntimeConfig(ray="off", **runtime), Progress(events, "test"))


def flip_a_bit(path: Path, at: float = 0.5) -> None:
    """Flip one bit of a file. The file gets a new inode, so hard links to it stay intact."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.unlink()
    path.write_bytes(data)


def dying(training: str) -> str:
    """Part of a script in which a training dies after step `die_at`.

    It wraps `training`, the dotted name of a generator of records, and prints the step from which
    it resumes.
    """
    return f"""
original = {training}
def dying(*args, start, **more):
    print("from", start, flush=True)
    for record in original(*args, start=start, **more):
        if record["step"] == die_at:
            os._exit(9)
        yield record
{training} = dying
"""


# ---------------------------------------------------------------------------------------- processes


def environment(home: Path, **more: str) -> dict[str, str]:
    """Environment of a child process with this home.

    It inherits this process's environment, except the settings of the project and its services.
    """
    own = (
        "ERPD_",
        "PREFECT_",
        "RAY_",
        "MLFLOW_",
        "HF_",
        "TMPDIR",
        "MPLCONFIGDIR",
        "TORCHINDUCTOR_CACHE_DIR",
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    return {
        **kept,
        "ERPD_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "RAY_worker_niceness": "0",
        **more,
    }


def migrated(home: Path) -> Path:
    """Create `home` with a Prefect database that is already migrated."""
    from deployments.servers import prefect_database

    prefect_database.make_template()
    prefect_database.provide(home / "prefect" / "prefect.db")
    return home


def python(
    script: str, *arguments: object, home: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in a separate process. The caller checks the exit code."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment(home, **more)
    )


def erpd(
    *arguments: object, home: Path, cwd: Path | None = None, timeout: float = 300, **more: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deployments.cli", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd or home,
        env=environment(home, **more),
        stdin=subprocess.DEVNULL,
    )


def sets(overrides: Sequence[str]) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def campaign_arguments(*overrides: str) -> list[str]:
    """Arguments of `erpd run` for the shrunk campaign, without Ray unless overridden."""
    return ["run", "tiny", "--json", *sets([*SHRUNK, "runtime.ray=off", *overrides])]


def processes_of(home: Path) -> list[psutil.Process]:
    """Every process that was started for this home, except this one."""
    processes = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("ERPD_HOME") == str(home) or any(
                str(home) in part for part in process.cmdline()
            )
            if mine and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
        except psutil.Error:
            continue
    return processes


def no_process_left(home: Path, patience: float = 20.0) -> list[str]:
    """Wait until no process of this home is left; returns the command lines of those that stay."""
    wait_until(lambda: not processes_of(home), patience)
    return [" ".join(process.cmdline()) for process in processes_of(home)]


def wait_until(condition: Callable[[], object], patience: float, pause: float = 1.0) -> bool:
    """Poll a condition for `patience` seconds; returns whether it became true.

    The interval grows up to `pause` seconds, because polling slows down what is waited for.
    """
    began = time.monotonic()
    while (waited := time.monotonic() - began) < patience:
        if condition():
            return True
        time.sleep(min(pause, 0.02 + waited / 20))
    return False


# ---------------------------------------------------------------------------------------- campaigns


def events(home: Path, campaign: str = "*") -> list[dict[str, Any]]:
    paths = sorted((home / "logs").glob(f"{campaign}.events.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """A campaign's result without the parts that depend on when and where it ran."""
    kept = {key: value for key, value in result.items() if key not in ("mlflow_url", "report")}
    return {
        **kept,
        "iterations": [
            {key: value for key, value in iteration.items() if key != "seconds"}
            for iteration in result["iterations"]
        ],
    }


def tracked(home: Path) -> dict[str, dict[tuple[str, int], list[float | None]]]:
    """Every point in the home's MLflow (see `points`)."""
    return points(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")


def points(url: str, campaign: str = "%") -> dict[str, dict[tuple[str, int], list[float | None]]]:
    """Every point of a campaign (an id or a LIKE pattern), read directly from an MLflow database.

    **Returns:** phase (or "campaign") -> (metric, step) -> values written.
    """
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    query = sa.text(
        "SELECT COALESCE((SELECT value FROM tags t WHERE t.run_uuid = m.run_uuid AND t.key = "
        "'erpd.phase'), 'campaign'), m.key, m.step,"
        " CASE WHEN m.is_nan THEN NULL ELSE m.value END FROM metrics m WHERE EXISTS"
        " (SELECT 1 FROM tags c WHERE c.run_uuid = m.run_uuid AND c.key = 'erpd.campaign' AND "
        "c.value LIKE :campaign)"
    )
    values_of: dict[str, dict[tuple[str, int], list[float | None]]] = {}
    with engine.connect() as connection:
        for phase, name, step, value in connection.execute(query, {"campaign": campaign}):
            values_of.setdefault(phase, {}).setdefault((name, step), []).append(value)
    engine.dispose()
    return values_of


@dataclass(frozen=True)
class Campaign:
    """A campaign that `erpd run` ran: its folder, arguments and result."""

    folder: Path
    arguments: list[str]
    done: subprocess.CompletedProcess[str]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def result(self) -> dict[str, Any]:
        assert self.done.returncode == 0, self.done.stderr
        return json.loads(self.done.stdout)

    def again(self) -> Campaign:
        """Run the same command again in the same home."""
        return run_campaign(self.folder, arguments=self.arguments)


def run_campaign(
    folder: Path, *overrides: str, arguments: list[str] | None = None, timeout: float = 300
) -> Campaign:
    """Run the shrunk campaign in `folder`, with its home, working directory and HOME there."""
    for name in ("cwd", "user"):
        (folder / name).mkdir(exist_ok=True)
    if not (folder / "home").exists():
        migrated(folder / "home")
    arguments = arguments or campaign_arguments(*overrides)
    done = erpd(
        *arguments,
        home=folder / "home",
        cwd=folder / "cwd",
        timeout=timeout,
        HOME=str(folder / "user"),
    )
    return Campaign(folder, arguments, done)
