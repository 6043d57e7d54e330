"""What an undisturbed run left, and where a disturbed one differs from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import sqlalchemy as sa
from helpers import numbers, points, wait_until
from services import House

from deployments.servers.dead_runs import SILENCE
from tasks.registry import Registry
from tasks.store import Store

KINDS = ("policy", "problems", "rollouts", "column", "signal", "training", "evaluation")
ENDS = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True)
class Snapshot:
    """All that a campaign came to, in each of the places that tell of it."""

    result: dict[str, Any]
    files: dict[str, Any]
    """Artifact -> its files with their checksums."""
    points: dict[str, dict[tuple[str, int], list[float | None]]]
    """MLflow's: phase -> (metric, step) -> values."""
    attached: set[tuple[int, str, str]]
    """The registry's: (iteration, role, artifact)."""
    reports: set[str]


def snapshot(house: House, result: dict[str, Any]) -> Snapshot:
    store = Store(house.home / "store")
    registry = Registry(house.database("erpd"))
    try:
        attached = {
            (one.iteration, one.role, one.artifact.id)
            for one in registry.artifacts(result["campaign"])
        }
        reports = {f"{one}" for one in registry.reports(result["campaign"])}
    finally:
        registry.close()
    return Snapshot(
        result={key: value for key, value in numbers(result).items() if key != "campaign"},
        files={
            artifact: store.manifest(artifact).files
            for kind in KINDS
            for artifact in store.artifacts(kind)
        },
        points=points(house.database("mlflow"), result["campaign"]),
        attached=attached,
        reports=reports,
    )


def differences(house: House, result: dict[str, Any], undisturbed: Snapshot) -> list[str]:
    """In a line each; none where the disturbed run is as the undisturbed one, and nothing is
    lost, doubled or left open.
    """
    ours = snapshot(house, result)
    wrong = [
        f"{name} differ"
        for name in ("result", "files", "attached", "reports")
        if getattr(ours, name) != getattr(undisturbed, name)
    ]
    wrong += _points(ours, undisturbed)
    wrong += _store(house)
    wrong += _left_open(house, result["campaign"])
    wrong += _still_running(house)
    return wrong


def _points(ours: Snapshot, undisturbed: Snapshot) -> Iterator[str]:
    """Every point of every metric once, with the same value where it is no time."""
    if ours.points.keys() != undisturbed.points.keys():
        yield f"MLflow has runs of {sorted(ours.points)}, not of {sorted(undisturbed.points)}"
        return
    for phase, theirs in undisturbed.points.items():
        found = ours.points[phase]
        if missing := theirs.keys() - found.keys():
            yield f"MLflow misses {len(missing)} points of {phase}: {min(missing)}"
        if more := found.keys() - theirs.keys():
            yield f"MLflow has {len(more)} points too many of {phase}: {min(more)}"
        if doubled := [point for point, values in found.items() if len(values) > 1]:
            yield f"MLflow has {len(doubled)} points of {phase} twice: {min(doubled)}"
        timeless = {point for point in theirs.keys() & found.keys() if "seconds" not in point[0]}
        if other := [point for point in timeless if found[point] != theirs[point]]:
            yield f"MLflow has other values of {phase}: {min(other)}"


def _store(house: House) -> Iterator[str]:
    """Whole, without remains, and with each response of each problem once."""
    store = Store(house.home / "store")
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


def _left_open(house: House, campaign: str) -> Iterator[str]:
    """The registry and MLflow say that it is over."""
    registry = Registry(house.database("erpd"))
    try:
        found = registry.campaign(campaign)
        if found.status != "completed" or found.finished_at is None:
            yield f"the registry says {found.status}"
        if open_ := [
            one.index for one in registry.iterations(campaign) if one.status != "completed"
        ]:
            yield f"the registry has iterations {open_} open"
    finally:
        registry.close()
    query = (
        "SELECT r.name, r.status FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid AND t.key "
        "= 'erpd.campaign' AND t.value = :campaign"
    )
    engine = sa.create_engine(house.database("mlflow"))
    with engine.connect() as connection:
        for name, status in connection.execute(sa.text(query), {"campaign": campaign}):
            if status != "FINISHED":
                yield f"MLflow's run {name} is {status}"
    engine.dispose()


def _still_running(house: House) -> list[str]:
    """Prefect's flow runs that have not ended. Who was killed cannot say that it ends: the
    server marks it once its heartbeat is silent.
    """

    def running() -> list[str]:
        runs = house.prefect("/flow_runs/filter", {"limit": 200, "sort": "START_TIME_DESC"})
        return [
            f"{one['name']} is {one['state']['name']}"
            for one in runs
            if one["state"]["type"] not in ENDS
        ]

    wait_until(lambda: not running(), SILENCE.total_seconds() + 60)
    return running()
