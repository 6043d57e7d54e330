"""Garbage collection: remove from the store what no kept artifact needs, in two steps.

`plan` decides from the store's inventory and the registry, and changes nothing. It keeps

- what campaigns that are not forgotten hold,
- what was used recently: within the given number of days, or since one hour (`GRACE`) before the
  earliest current work began. A running campaign began when it was first started; work under a held
  lock began when its note was written. Either may rely on artifacts that it has found since then
  but does not yet hold in the registry,
- builds that grew recently, and builds that a campaign that is not completed will resume,

and with each of these everything it was made from, according to the registry and the manifests,
and every artifact named in its result.

`collect` carries out a plan. After a kill at any moment every artifact in the store is complete or
absent: items are first moved to `trash/`, derived artifacts before their inputs, each under its
lock and after a second check that nothing needs it.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.host.atomic_files import make_durable
from tasks.registry import ArtifactRole, CampaignRecord, Registry
from tasks.store import Store, lock_path, note_path
from tasks.store.inventory import COLLECTOR, Item, last_used

DAYS = 7.0
"""Days for which an item that nothing needs is kept after its last use."""
USED = "used recently"
GRACE = 3600.0
"""Seconds before the recorded start of work in which it may have looked up artifacts already."""


@dataclass(frozen=True)
class Claims:
    """What the registry says about which artifacts are needed."""

    unfinished: Sequence[CampaignRecord]
    """Campaigns that are neither completed nor forgotten."""
    held: Sequence[ArtifactRole]
    """Roles of artifacts in campaigns that are not forgotten."""
    edges: Sequence[tuple[str, str]]
    """(child, parent) pairs: the child was made from the parent."""

    @classmethod
    def of(cls, registry: Registry, but: Collection[str] = ()) -> Claims:
        """Read the registry, treating the campaigns `but` (ids) as forgotten."""
        unfinished = [campaign for campaign in registry.unfinished() if campaign.id not in but]
        return cls(
            unfinished,
            [role for role in registry.held() if role.campaign not in but],
            registry.edges(),
        )


@dataclass(frozen=True)
class Kept:
    """An item that stays, and the reason as text."""

    item: Item
    why: str


@dataclass(frozen=True)
class Plan:
    """Which items to remove, in order, and which to keep."""

    since: float
    """Seconds since the epoch. Nothing used at this time or later is removed."""
    because: str
    """What determines `since`, as text."""
    goes: tuple[Item, ...]
    """Items to remove, in the order of removal."""
    stays: tuple[Kept, ...]
    """Items to keep."""
    needs: Mapping[str, Set[str]]
    """Artifact -> the artifacts it needs."""

    def with_needs(self, artifacts: Iterable[str]) -> set[str]:
        """The given artifacts and everything they need, directly or indirectly."""
        return _closure(artifacts, self.needs)


# ----------------------------------------------------------------------------------------- planning


def plan(items: Sequence[Item], claims: Claims, now: float, days: float = DAYS) -> Plan:
    """Decide which of `items` to remove.

    **Arguments:**
        items: Inventory of the store.
        claims: What the registry needs.
        now: Current time, seconds since the epoch.
        days: Days for which an item that nothing needs is kept after its last use.
    """
    since, because = _since(items, claims, now, days)
    artifacts = {item.id: item for item in items if item.what == "artifact"}
    made_from: dict[str, set[str]] = defaultdict(set)
    for child, parent in claims.edges:
        made_from[child].add(parent)
    for item in artifacts.values():
        made_from[item.id] |= item.inputs
    needs = made_from | {
        artifact: made_from[artifact] | (item.parts & artifacts.keys())
        for artifact, item in artifacts.items()
    }

    unfinished = _held_by_unfinished(claims)
    builds = {
        item.id: why
        for item in items
        if item.what == "build" and (why := _build_stays(item, unfinished, since))
    }
    kept = _reasons(_roots(items, claims, builds.keys(), since), needs)
    reasons = [_why(item, kept, builds, artifacts, since) for item in items]
    goes = [item for item, reason in zip(items, reasons, strict=True) if reason is None]
    below = _closure((item.id for item in goes if item.what == "artifact"), made_from)
    # sorted, so that the order is deterministic
    sorter = TopologicalSorter(
        {artifact: sorted(made_from.get(artifact, ())) for artifact in sorted(below)}
    )
    parents_first = {artifact: index for index, artifact in enumerate(sorter.static_order())}
    goes.sort(
        key=lambda item: (
            item.what != "build",
            item.what != "artifact",
            -parents_first.get(item.id, 0),
        )
    )
    stays = tuple(
        Kept(item, reason)
        for item, reason in zip(items, reasons, strict=True)
        if reason is not None
    )
    return Plan(since, because, tuple(goes), stays, needs)


def _closure(artifacts: Iterable[str], above: Mapping[str, Collection[str]]) -> set[str]:
    """The given artifacts and everything reachable from them through `above`."""
    reached: set[str] = set()
    left = list(artifacts)
    while left:
        if (artifact := left.pop()) not in reached:
            reached.add(artifact)
            left += above.get(artifact, ())
    return reached


def _since(items: Sequence[Item], claims: Claims, now: float, days: float) -> tuple[float, str]:
    """`Plan.since` and `Plan.because`."""
    times = [(now - days * 86400, f"the last {days:g} days")]
    times += [
        (campaign.created_at.timestamp() - GRACE, f"{campaign.id} is running")
        for campaign in claims.unfinished
        if campaign.status == "running"
    ]
    times += [
        (item.used - GRACE, f"{item.id} is being made")
        for item in items
        if item.what == "lock" and item.busy
    ]
    return min(times)


def _held_by_unfinished(claims: Claims) -> dict[str, set[str]]:
    """Unfinished campaign -> the artifacts it holds."""
    held: dict[str, set[str]] = {campaign.id: set() for campaign in claims.unfinished}
    for role in claims.held:
        if role.campaign in held:
            held[role.campaign].add(role.artifact)
    return held


def _build_stays(build: Item, unfinished: Mapping[str, set[str]], since: float) -> str | None:
    """Why a build is kept; None if it is not.

    A build is kept if it is in progress, grew recently, or has only inputs that one unfinished
    campaign holds: that campaign will resume it.
    """
    if build.busy:
        return "is being made"
    if build.used >= since:
        return USED
    if not build.inputs:
        return None
    return next(
        (
            f"{campaign} will resume it"
            for campaign, held in unfinished.items()
            if build.inputs <= held
        ),
        None,
    )


def _roots(
    items: Sequence[Item], claims: Claims, builds: Set[str], since: float
) -> Iterator[tuple[str, str, str]]:
    """Yield (artifact, why it stays, why its needs stay) for artifacts kept for their own sake.

    The first triple of an artifact counts.
    """
    for role in claims.held:
        reason = str(role)
        yield role.artifact, reason, reason
    for item in items:
        if item.what == "lock" and item.busy:
            yield item.id, "in use now", f"{item.id}, in use now"
        elif item.what == "build" and item.id in builds:
            yield from (
                (artifact, f"needed by the build of {item.id}", f"the build of {item.id}")
                for artifact in item.inputs
            )
        elif item.what == "artifact" and (
            unfinished := item.inputs & builds
        ):  # a policy that an unfinished training has kept
            yield (
                item.id,
                f"part of the build of {min(unfinished)}",
                f"the build of {min(unfinished)}",
            )
        elif item.what == "artifact" and item.used >= since:
            yield item.id, USED, f"{item.id}, {USED}"


def _reasons(
    roots: Iterable[tuple[str, str, str]], needs: Mapping[str, Collection[str]]
) -> dict[str, str]:
    """Artifact -> why it stays.

    A root has its own reason. Any other artifact has the first root that needs it.
    """
    own: dict[str, tuple[str, str]] = {}
    for artifact, reason, label in roots:
        own.setdefault(artifact, (reason, label))
    why = {artifact: reason for artifact, (reason, _) in own.items()}
    for artifact, (_, label) in own.items():
        left = list(needs.get(artifact, ()))
        while left:
            if (needed := left.pop()) not in why:
                why[needed] = f"needed by {label}"
                left += needs.get(needed, ())
    return why


def _why(
    item: Item,
    kept: Mapping[str, str],
    builds: Mapping[str, str],
    artifacts: Collection[str],
    since: float,
) -> str | None:
    """Why an item stays; None if it is removed."""
    if item.what == "artifact":
        return kept.get(item.id)
    if item.what == "build":
        return builds.get(item.id)
    if item.what == "lock" and (item.busy or item.id in artifacts or item.id in builds):
        return "its artifact exists or is being made"
    return USED if item.used >= since and item.what != "trash" else None


# --------------------------------------------------------------------------------------- collecting


@dataclass(frozen=True)
class Collected:
    """Outcome of a collection."""

    went: tuple[Item, ...]
    """Items that were removed."""
    spared: tuple[Item, ...]
    """Items of the plan that were kept because they were used, or became needed, after it was made.
    """


def collect(store: Store, registry: Registry, plan: Plan) -> Collected:
    """Remove the items of a plan that are still not needed.

    **Raises:** ValueError if another collection is running.
    """
    locks = store.root / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock_path(store.root, COLLECTOR), blocking=False):
            return Collector(store, registry, plan).run()
    except Timeout as error:
        raise ValueError(
            f"another `erpd gc` is running in {store.root}; wait until it is done"
        ) from error


class Collector:
    """Carries out one plan. The caller holds the collector's lock."""

    def __init__(self, store: Store, registry: Registry, plan: Plan) -> None:
        self.store, self.registry, self.plan = store, registry, plan
        self.trash = store.root / "trash"

    def run(self) -> Collected:
        """Move the plan's items to the trash, then empty it."""
        self.trash.mkdir(exist_ok=True)
        went, spared = [], []
        needed: set[str] = set()
        for item in self.plan.goes:
            if item.what == "artifact" and item.id in needed:
                spared.append(item)
            elif item.what == "trash" or self._move_to_trash(item):
                went.append(item)
            else:
                spared.append(item)
                needed |= self.plan.with_needs({item.id} | item.inputs)
        self._empty_trash()
        return Collected(tuple(went), tuple(spared))

    def _move_to_trash(self, item: Item) -> bool:
        """Move an item to the trash under its artifact's lock.

        False if a process holds the lock or the item is in use after all.
        """
        root = self.store.root
        with contextlib.suppress(Timeout), FileLock(lock_path(root, item.id), blocking=False):
            if not self._unneeded(item, item.path):
                return False
            if item.what != "lock":
                trashed = self.trash / f"{item.id}.{time.time_ns()}"
                item.path.rename(trashed)
                if not self._unneeded(item, trashed):  # requested between the check and the move
                    with contextlib.suppress(OSError):  # it was fetched from the mirror meanwhile
                        trashed.rename(item.path)
                    return False
            if not self._in_place(item.id):
                note_path(root, item.id).unlink(missing_ok=True)
                # a process that waits for the lock notices that the file is gone, and creates it
                lock_path(root, item.id).unlink()
            return True
        return False

    def _unneeded(self, item: Item, path: Path) -> bool:
        """Whether an item, now at `path`, is still not needed."""
        if item.what == "lock":
            return not self._in_place(item.id)
        if not 0 < last_used(item.what, path) < self.plan.since:
            return False
        return item.what != "artifact" or not self.registry.is_held(item.id)

    def _in_place(self, artifact: str) -> bool:
        """Whether an artifact or a build of it exists."""
        return (
            self.store.path(artifact).exists() or (self.store.root / "partial" / artifact).exists()
        )

    def _empty_trash(self) -> None:
        """Delete everything in the trash and record the removed artifacts in the registry.

        Includes what an interrupted collection left there.
        """
        make_durable(self.trash)  # the moves must be durable before anything is deleted
        for entry in sorted(self.trash.iterdir()):
            artifact = entry.name.rpartition(".")[0]
            elsewhere = self.store.mirror is not None and self.store.mirror.has(artifact)
            if not (elsewhere or self.store.path(artifact).exists()):
                self.registry.removed(artifact)
            shutil.rmtree(entry)
