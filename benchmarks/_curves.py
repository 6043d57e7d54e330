"""Curves of time and memory against size. They are measured from the smallest size upwards."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import _synthetic
from benchmarks._budget import Deadline, TimeUp
from benchmarks._sides import output
from tasks.registry import Registry
from tasks.store import Store

SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
"""Sizes that are measured, as shares of the largest case."""
POINTS = 4
"""Points of a curve: the largest that were measured."""
LEAST = 0.25
"""Seconds below which a part is too short to measure its growth."""

Point = dict[str, Any]
"""One measurement: the `seconds` of each part, sizes, and more; on a curve also its `x`."""

Curves = dict[str, list[Point]]
"""The points of each curve by what grows, in the order of their sizes."""


def growing(
    name: str, sizes: Sequence[int], measure: Callable[[int], Point], share: Deadline
) -> list[Point]:
    """Measure one size after the other, and print each point, until the next would not fit.

    **Raises:** TimeUp if the first point was not measured in time.
    """
    points: list[Point] = []
    expected = 0.0
    for size, following in zip(sizes, [*sizes[1:], 0]):
        if not share.fits(expected):
            break
        started = time.perf_counter()
        try:
            points.append(measure(size))
        except TimeUp:
            break
        print(f"{name}: {points[-1]}", flush=True)
        expected = (time.perf_counter() - started) * following / size
    if not points:
        raise TimeUp
    return points[-POINTS:]


class Batches:
    """Synthetic batches of one length of responses, each with the shards of the one before."""

    def __init__(self, folder: Path, length: int, columns: int, deadline: Deadline) -> None:
        self.store = Store(folder / f"length-{length}")
        self.length, self.columns, self.deadline = length, columns, deadline
        self._latest: _synthetic.Built | None = None
        self._points: dict[int, Point] = {}

    def point(self, shards: int) -> Point:
        """Store a batch and measure it with all its columns."""
        self._latest = _synthetic.built(self.store, shards, self.length, self.columns, self._latest)
        self._points.clear()
        return self.with_columns(self.columns)

    def with_columns(self, columns: int) -> Point:
        """Measure the latest batch with its first columns, once, in a separate process.

        **Raises:** TimeUp if there is no batch, or if the deadline ended the process.
        """
        if self._latest is None:
            raise TimeUp
        if columns not in self._points:
            of, stored = self._latest
            job = self.store.root / "job.json"
            ids = [column.id for column in stored[:columns]]
            root = str(self.store.root)
            job.write_text(json.dumps({"root": root, "rollouts": of.id, "columns": ids}))
            printed = output(["-m", "benchmarks._signal_path", str(job)], self.deadline)
            self._points[columns] = json.loads(printed.splitlines()[-1])
        return self._points[columns]


def registry_point(folder: Path, rows: int) -> Point:
    """Measure the seconds to write artifacts with two inputs each, and to query the last's
    lineage.
    """
    registry = Registry(f"sqlite:///{folder / f'registry-{rows}.db'}")
    began = time.perf_counter()
    registry.record_artifact("policy-0", "policy", {}, {})
    for number in range(1, rows):
        parents = {"init": f"policy-{number - 1}", "first": f"policy-{number // 2}"}
        registry.record_artifact(f"policy-{number}", "policy", {"step": number}, parents)
    written = time.perf_counter() - began
    began = time.perf_counter()
    ancestors = len(registry.lineage(f"policy-{rows - 1}").ids)
    queried = time.perf_counter() - began
    registry.close()
    assert ancestors == rows
    return {"rows": rows, "seconds": {"write": written, "lineage": queried}}


def exponents(points: Sequence[Point]) -> dict[str, float | None]:
    """Return each part's slope of log time against log size: 1 is linear, below 1 is better.

    The slope is that between the smallest and the largest point; None for parts below LEAST. A
    single point has none.
    """
    first, last = points[0], points[-1]
    if first is last:
        return {}
    grown = math.log(last["x"] / first["x"])
    slopes: dict[str, float | None] = {}
    for part in last["seconds"]:
        before, after = first["seconds"][part], last["seconds"][part]
        slopes[part] = round(math.log(after / before) / grown, 3) if after >= LEAST else None
    if "peak" in last:
        slopes["memory"] = round(math.log(last["peak"] / first["peak"]) / grown, 3)
    return slopes
