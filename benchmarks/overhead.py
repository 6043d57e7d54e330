"""Measures a campaign's overhead: all time except sampling, scoring, training, grading, evaluation.

    python -m benchmarks.overhead --json [--recipe tiny] [--set runtime.cpus=1 ...] [--minutes 10]

It runs `erpd run tiny` as a user types it, in a new ERPD_HOME: first with one iteration, then with
as many as there is time for. The campaign's events say when each stage began and ended. Work is the
time in which at least one stage ran, except importing the model and drawing problems; it is the
peer, a campaign without overhead. The rest is overhead: before the first stage, between stages, and
after the last. `ratio` is work over the total.

The overhead's share of a 30-minute campaign is computed: the fixed part once, the time between
stages as measured here, and work for the rest.

If the time is over during the first campaign, what it did until the end of its latest stage counts
(`complete` is false).

The parts of the start are also measured alone, each in a new process, if time is left. In a
campaign most of them run in parallel.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL
from typing import Any, NamedTuple

from benchmarks._batches import doubled
from benchmarks._budget import Deadline, TimeUp
from benchmarks._pairs import Figure, Result, Row, compared, repeated
from benchmarks._report import finish, parser, said
from benchmarks._sides import output
from flows.recipes.load import load_recipe

SECONDS = Figure("seconds", less_is_better=True)

LONG = 1800.0
"""Seconds of the campaign for which the share of overhead is computed."""
NO_WORK = ("import the base model", "draw ")
PARTS = {
    "imports": "import flows.campaign, deployments.commands.run",
    "prefect": "from deployments.servers import local_platform\nwith "
    "local_platform.prefect_api() as "
    "url: local_platform.wait_for_prefect(url)",
    "ray": "from erpd_core.config import RuntimeConfig\nfrom tasks.execution.ray_cluster import "
    "ensure_ray, stop_ray\nensure_ray(RuntimeConfig())\nstop_ray()",
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
    sizes = doubled(1, load_recipe(args.recipe, args.set).iterations)

    def campaign(iterations: int) -> list[str]:
        settings = [*args.set, f"iterations={iterations}"]
        return ["run", args.recipe, "--json", *(f"--set={setting}" for setting in settings)]

    rows: dict[str, Row] = {}
    details: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="e-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        suppress(TimeUp),
    ):
        home = Path(folder)

        def pair(number: int, size: int) -> tuple[Result, Result]:
            ours = account(home / str(number), campaign(size), args.deadline)
            if number and not ours["complete"]:
                raise TimeUp  # the pair before says more
            return ours, {"seconds": ours["work"]}

        share = args.deadline.share(2)
        pairs = repeated(args.recipe, pair, share, args.rounds, sizes, SECONDS)
        last = pairs[-1]
        row = {"iterations": last.size, **compared(pairs, SECONDS), **last.ours}
        rows[args.recipe] = said(row)
        for name, place, arguments_ in alone(str(len(pairs) - 1), campaign(last.size)):
            details.append(said({name: seconds(home / place, arguments_, args.deadline)}))
    finish(
        args,
        "overhead",
        "s",
        rows,
        recipe=args.recipe,
        overrides=args.set,
        peer="seconds in which a stage ran",
        details=details,
    )


def alone(finished: str, campaign: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the name, the folder and the command of what is also measured alone."""
    yield "the same again, every stage stored", finished, erpd(campaign)
    for name, code in PARTS.items():
        prepared = f"from tasks.host.home import prepare\nprepare()\n{code}"
        yield f"{name} alone", name, ["-c", prepared]
    for words in COMMANDS:
        yield f"erpd {' '.join(words)}", "commands", erpd(words)


def account(home: Path, campaign: Sequence[str], deadline: Deadline) -> Result:
    """Run a campaign and split its seconds into work and overhead.

    **Raises:** TimeUp if no work was finished in time.
    """
    began = time.time()
    complete = False
    with suppress(TimeUp):
        seconds(home, erpd(campaign), deadline)
        complete = True
    ended = time.time()
    lines = [
        line
        for path in (home / "logs").glob("*.events.jsonl")
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")  # a campaign that is killed may leave a part of a line
    ]
    every = spans([json.loads(line) for line in lines])
    work = [span for span in every if not span.label.partition(": ")[2].startswith(NO_WORK)]
    if not work:
        raise TimeUp
    first, last = min(span.began for span in every), max(span.ended for span in every)
    total = (ended if complete else last) - began
    start, end, busy = first - began, total - (last - began), covered(work)
    between = total - start - end - busy
    rest = LONG - start - end - between
    return {
        "complete": complete,
        "seconds": round(total, 1),
        "work": round(busy, 1),
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


def erpd(words: Sequence[str]) -> list[str]:
    """Return Python's arguments for an `erpd` command."""
    return ["-m", "deployments.cli", *words]


def seconds(home: Path, arguments: Sequence[str], deadline: Deadline) -> float:
    """Return the seconds of `python ARGUMENTS` in an ERPD_HOME.

    **Raises:** TimeUp if the deadline ended it, CalledProcessError if it failed.
    """
    home.mkdir(exist_ok=True)
    own = ("ERPD_", "PREFECT_", "RAY_", "MLFLOW_", "TMPDIR")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(own)} | {
        "ERPD_HOME": str(home)
    }
    started = time.perf_counter()
    output(arguments, deadline, env=environment, stdout=DEVNULL)
    return round(time.perf_counter() - started, 2)


if __name__ == "__main__":
    main()
