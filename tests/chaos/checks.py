"""Snapshot of an undisturbed run, and how a disturbed run differs from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import sqlalchemy as sa
from helpers import numbers, points, wait_until
from services import Stack

from deployments.servers.dead_runs import SILENCE
from tasks.registry import Registry
from tasks.store import Store

KINDS = ("policy", "problems", "rollouts", "column", "signal", "training", "evaluation")
ENDS = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True)
class Snapshot:
    """A campaign's results in every place that records them."""

    result: dict[str, Any]
    files: dict[str, Any]
    """Artifact -> its files with their checksums."""
    points: dict[str, dict[tuple[str, int], list[float | None]]]
    """MLflow's: phase -> (metric, step) -> values."""
    attached: set[tuple[int, str, str]]
    """The registry's: (iteration, role, artifact)."""
    reports: set[str]


def snapshot(stack: Stack, result: dict[str, Any]) -> Snapshot:
    store = Store(stack.home / "store")
    registry = Registry(stack.database("erpd"))
    try:
        attached = {
            (entry.iteration, entry.role, entry.artifact.id)
            for entry in registry.artifacts(result["campaign"])
        }
        reports = {f"{report}" for report in registry.reports(result["campaign"])}
    finally:
        registry.close()
    return Snapshot(
        result={key: value for key, value in numbers(result).items() if key != "campaign"},
        files={
            artifact: store.manifest(artifact).files
            for kind in KINDS
            for artifact in store.artifacts(kind)
        },
        points=points(stack.database("mlflow"), result["campaign"]),
        attached=attached,
        reports=reports,
    )


def differences(stack: Stack, result: dict[str, Any], undisturbed: Snapshot) -> list[str]:
    """Every difference from the undisturbed run, and everything lost, doubled or left open.

    Each is one line.
    """
    ours = snapshot(stack, result)
    wrong = [
        f"{name} differ"
        for name in ("result", "files", "attached", "reports")
        if getattr(ours, name) != getattr(undisturbed, name)
    ]
    wrong += _metrics(ours, undisturbed)
    wrong += _store(stack)
    wrong += _left_open(stack, result["campaign"])
    wrong += _still_running(stack)
    return wrong


def _metrics(ours: Snapshot, undisturbed: Snapshot) -> Iterator[str]:
    """Checks that every point of every metric is there once, with the same value unless a time."""
    if ours.points.keys() != undisturbed.points.keys():
        yield f"MLflow has runs of {sorted(ours.points)}, not of {sorted(undisturbed.points)}"
        return
    for phase, theirs in undisturbed.points.items():
        actual = ours.points[phase]
        if missing := theirs.keys() - actual.keys():
            yield f"MLflow misses {len(missing)} points of {phase}: {min(missing)}"
        if more := actual.keys() - theirs.keys():
            yield f"MLflow has {len(more)} points too many of {phase}: {min(more)}"
        if doubled := [point for point, values in actual.items() if len(values) > 1]:
            yield f"MLflow has {len(doubled)} points of {phase} twice: {min(doubled)}"
        timeless = {point for point in theirs.keys() & actual.keys() if "seconds" not in point[0]}
        if other := [point for point in timeless if actual[point] != theirs[point]]:
            yield f"MLflow has other values of {phase}: {min(other)}"


def _store(stack: Stack) -> Iterator[str]:
    """Checks that the store is intact, has no leftovers, and has each response only once."""
    store = Store(stack.home / "store")
    for kind in KINDS:
        for artifact in store.artifacts(kind):
            if damage := store.damage(artifact):
                yield damage
    for artifact in store.artifacts("rollouts"):
        tables = [
            pq.read_table(path, columns=["problem", "sample"])
            for path in store.path(artifact).glob("shard-*.parquet")
        ]
        sampled = Counter(
            pair
            for table in tables
            for pair in zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
        )
        if twice := [pair for pair, count in sampled.items() if count > 1]:
            yield f"{artifact}: {len(twice)} responses twice, {twice[0]} among them"
    if remains := [
        path.name
        for path in store.root.rglob("*")
        if path.name.endswith((".tmp", ".sum", ".journal", ".scratch"))
    ]:
        yield f"the store keeps {remains}"
    if partial := [path.name for path in (store.root / "partial").iterdir()]:
        yield f"the store keeps builds under way: {partial}"
    if (store.root / "damaged").exists():
        yield "the store set something aside as damaged"


def _left_open(stack: Stack, campaign: str) -> Iterator[str]:
    """Checks that the campaign has ended in the registry and in MLflow."""
    registry = Registry(stack.database("erpd"))
    try:
        record = registry.campaign(campaign)
        if record.status != "completed" or record.finished_at is None:
            yield f"the registry says {record.status}"
        if open_ := [
            iteration.index
            for iteration in registry.iterations(campaign)
            if iteration.status != "completed"
        ]:
            yield f"the registry has iterations {open_} open"
    finally:
        registry.close()
    query = (
        "SELECT r.name, r.status FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid AND t.key "
        "= 'erpd.campaign' AND t.value = :campaign"
    )
    engine = sa.create_engine(stack.database("mlflow"))
    with engine.connect() as connection:
        for name, status in connection.execute(sa.text(query), {"campaign": campaign}):
            if status != "FINISHED":
                yield f"MLflow's run {name} is {status}"
    engine.dispose()


def _still_running(stack: Stack) -> list[str]:
    """Prefect's flow runs that have not ended.

    A killed process cannot end its run: the server does it when the heartbeat stops.
    """

    def running() -> list[str]:
        runs = stack.prefect("/flow_runs/filter", {"limit": 200, "sort": "START_TIME_DESC"})
        return [
            f"{run['name']} is {run['state']['name']}"
            for run in runs
            if run["state"]["type"] not in ENDS
        ]

    wait_until(lambda: not running(), SILENCE.total_seconds() + 60)
    return running()
