"""Measures a campaign's overhead: all time except sampling, scoring, training, grading, evaluation.

    python -m benchmarks.overhead --json [--recipe tiny] [--set runtime.cpus=1 ...]

It runs `erpd run tiny` as a user types it, in a new ERPD_HOME. The campaign's events say when each
stage began and ended. Work is the time in which at least one stage ran, except importing the model
and drawing problems; it is the peer, a campaign without overhead. The rest is overhead: before the
first stage, between stages, and after the last. `ratio` is work over the total.

The overhead's share of a 30-minute campaign is computed: the fixed part once, the time between
stages as measured here, and work for the rest.

The parts of the start are also measured alone, each in a new process. In a campaign most of them
run in parallel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._report import finish, parser, said

LONG = 1800.0
"""Seconds of the campaign for which the share of overhead is computed."""
NO_WORK = ("import the base model", "draw ")
PARTS = {
    "imports": "import flows.campaign, deployments.commands.run",
    "prefect": "from deployments.servers import local_platform\nwith "
    "local_platform.prefect_api() as "
    "url: local_platform.wait_for_prefect(url)",
    "ray": "from erpd_core.config import RuntimeConfig\nfrom tasks.execution.ray_cluster import "
    "ensure_ray\nensure_ray(RuntimeConfig())",
    "mlflow": "from flows.steps.tracking_queue import open_tracker\nopen_tracker()",
    "registry": "from tasks.registry import open_registry\nopen_registry()",
}
"""Code of each part; it runs in its own process and ERPD_HOME, and its imports count."""
COMMANDS = (["--help"], ["recipes"], ["grade", "--help"])


class Span(NamedTuple):
    """The time span in which a stage ran, in seconds since the epoch."""

    label: str
    began: float
    ended: float


def main() -> None:
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--recipe", default="tiny")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="e-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        command = [
            "run",
            args.recipe,
            "--json",
            *(part for setting in args.set for part in ("--set", setting)),
        ]
        first = said(account(home, command))
        again = said({"the same again, every stage stored": erpd(home / "home", *command)})
        parts = said({f"{name} alone": python(home / name, code) for name, code in PARTS.items()})
        commands = said(
            {f"erpd {' '.join(words)}": erpd(home / "commands", *words) for words in COMMANDS}
        )
    finish(
        args.json,
        "overhead",
        "s",
        [first, again, parts, commands],
        recipe=args.recipe,
        overrides=args.set,
        peer="seconds in which a stage ran",
    )


def account(home: Path, command: Sequence[str]) -> dict[str, Any]:
    """Run a campaign and split its seconds into work and overhead."""
    began = time.time()
    erpd(home / "home", *command)
    ended = time.time()
    (events,) = (home / "home" / "logs").glob("*.events.jsonl")
    every = spans([json.loads(line) for line in events.read_text().splitlines()])
    work = [span for span in every if not span.label.partition(": ")[2].startswith(NO_WORK)]
    first, last = min(span.began for span in every), max(span.ended for span in every)
    start, end, busy = first - began, ended - last, covered(work)
    total = ended - began
    between = total - start - end - busy
    rest = LONG - start - end - between
    return {
        "ours": round(total, 1),
        "peer": round(busy, 1),
        "ratio": round(busy / total, 3),
        "before the first stage": round(start, 1),
        "between stages": round(between, 1),
        "stages": len(every),
        "between, a stage": round(between / len(every), 2),
        "after the last stage": round(end, 1),
        "fixed": round(start + end, 1),
        "share of a campaign of 30 minutes": round(1 - rest / LONG, 4),
        "side by side": round(sum(span.ended - span.began for span in work) / busy, 2),
    }


def spans(events: Sequence[dict[str, Any]]) -> list[Span]:
    """Return the time span of each stage, from the campaign's events."""
    began: dict[str, float] = {}
    finished = []
    for event in events:
        if event.get("status") == "started":
            began[event["label"]] = event["time"]
        elif event.get("status") == "finished":
            finished.append(Span(event["label"], began.pop(event["label"]), event["time"]))
    return finished


def covered(spans: Sequence[Span]) -> float:
    """Return the seconds that at least one span covers."""
    seconds, until = 0.0, 0.0
    for span in sorted(spans, key=lambda span: span.began):
        seconds += max(0.0, span.ended - max(span.began, until))
        until = max(until, span.ended)
    return seconds


def erpd(home: Path, *arguments: str) -> float:
    """Return the seconds of an `erpd` command."""
    return _seconds(home, ["-m", "deployments.cli", *arguments])


def python(home: Path, code: str) -> float:
    """Return the seconds of Python code in a prepared ERPD_HOME."""
    return _seconds(home, ["-c", f"from tasks.host.home import prepare\nprepare()\n{code}"])


def _seconds(home: Path, arguments: Sequence[str]) -> float:
    """Return the seconds of a Python process. Raises CalledProcessError if it fails."""
    home.mkdir(exist_ok=True)
    own = ("ERPD_", "PREFECT_", "RAY_", "MLFLOW_", "TMPDIR")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(own)} | {
        "ERPD_HOME": str(home)
    }
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True
    )
    return round(time.perf_counter() - started, 2)


if __name__ == "__main__":
    main()
