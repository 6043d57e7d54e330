"""Garbage collection: what nothing that is kept needs goes from the store, in two steps.

`plan` is arithmetic over what lies in the store and what the registry says. Kept are

- what campaigns that are not forgotten hold on to,
- what was used lately: in so many days, and since the earliest that is at work now began, less an
  hour (`GRACE`). A campaign whose status is running began when it was first started; work under a
  lock that is held, when its note was written. What either looked for since then and found, it may
  be counting on without holding it in the registry yet,
- builds that grew lately, or that go on with a campaign which is not completed,

and with each of these everything it was made from, by the registry and by the manifests, and
everything its answer names.

`collect` carries a plan out, so that a kill at any moment leaves a store in which every artifact is
whole or not there: things are moved to `trash/` first, what was made before what it was made from,
each under its lock and after another look at whether it is still unneeded.
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
from tasks.registry import ArtifactRole, Campaign, Registry
from tasks.store import Store, lock_path, note_path
from tasks.store.inventory import COLLECTOR, Item, last_used

DAYS = 7.0
"""How long something that nothing needs is kept after it was last used."""
USED = "used lately"
GRACE = 3600.0
"""Seconds before work began in which it may have looked for what it needs."""


@dataclass(frozen=True)
class Claims:
    """What the registry says about who needs what."""

    unfinished: Sequence[Campaign]
    """Those that are not completed, nor forgotten."""
    held: Sequence[ArtifactRole]
    edges: Sequence[tuple[str, str]]
    """(child, parent)."""

    @classmethod
    def of(cls, registry: Registry, but: Collection[str] = ()) -> Claims:
        """Now, or as if the campaigns `but` were forgotten."""
        unfinished = [one for one in registry.unfinished() if one.id not in but]
        return cls(
            unfinished,
            [place for place in registry.held() if place.campaign not in but],
            registry.edges(),
        )


@dataclass(frozen=True)
class Kept:
    """Something that stays, and why, in words."""

    item: Item
    why: str


@dataclass(frozen=True)
class Plan:
    """What goes, in the order it goes, and what stays."""

    since: float
    """Nothing used at this time (seconds since the epoch) or later goes."""
    because: str
    """What sets that time."""
    goes: tuple[Item, ...]
    stays: tuple[Kept, ...]
    needs: Mapping[str, Set[str]]
    """Artifact -> what it needs."""

    def with_needs(self, artifacts: Iterable[str]) -> set[str]:
        """These artifacts and everything they need."""
        return _closure(artifacts, self.needs)


# ----------------------------------------------------------------------------------------- planning


def plan(items: Sequence[Item], claims: Claims, now: float, days: float = DAYS) -> Plan:
    """What may go of `items`, by what is known `now` (seconds since the epoch)."""
    since, because = _since(items, claims, now, days)
    artifacts = {item.id: item for item in items if item.what == "artifact"}
    made_from: dict[str, set[str]] = defaultdict(set)
    for child, parent in claims.edges:
        made_from[child].add(parent)
    for item in artifacts.values():
        made_from[item.id] |= item.inputs
    needs = made_from | {
        one: made_from[one] | (item.parts & artifacts.keys()) for one, item in artifacts.items()
    }

    going_on = _held_by_unfinished(claims)
    builds = {
        item.id: why
        for item in items
        if item.what == "build" and (why := _build_stays(item, going_on, since))
    }
    kept = _reasons(_roots(items, claims, builds.keys(), since), needs)
    reasons = [_why(item, kept, builds, artifacts, since) for item in items]
    goes = [item for item, reason in zip(items, reasons, strict=True) if reason is None]
    below = _closure((item.id for item in goes if item.what == "artifact"), made_from)
    # the same order every time
    sorter = TopologicalSorter({one: sorted(made_from.get(one, ())) for one in sorted(below)})
    parents_first = {one: place for place, one in enumerate(sorter.static_order())}
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
    """These and everything that is reached from them."""
    found: set[str] = set()
    left = list(artifacts)
    while left:
        if (one := left.pop()) not in found:
            found.add(one)
            left += above.get(one, ())
    return found


def _since(items: Sequence[Item], claims: Claims, now: float, days: float) -> tuple[float, str]:
    times = [(now - days * 86400, f"the last {days:g} days")]
    times += [
        (one.created_at.timestamp() - GRACE, f"{one.id} is running")
        for one in claims.unfinished
        if one.status == "running"
    ]
    times += [
        (item.used - GRACE, f"{item.id} is being made")
        for item in items
        if item.what == "lock" and item.busy
    ]
    return min(times)


def _held_by_unfinished(claims: Claims) -> dict[str, set[str]]:
    """Unfinished campaign -> what it holds."""
    found: dict[str, set[str]] = {one.id: set() for one in claims.unfinished}
    for place in claims.held:
        if place.campaign in found:
            found[place.campaign].add(place.artifact)
    return found


def _build_stays(build: Item, going_on: Mapping[str, set[str]], since: float) -> str | None:
    """Why a build is kept: somebody is at it, or will go on with it."""
    if build.busy:
        return "is being made"
    if build.used >= since:
        return USED
    if not build.inputs:
        return None
    return next(
        (
            f"{campaign} goes on with it"
            for campaign, held in going_on.items()
            if build.inputs <= held
        ),
        None,
    )


def _roots(
    items: Sequence[Item], claims: Claims, builds: Set[str], since: float
) -> Iterator[tuple[str, str, str]]:
    """(artifact, why it stays, what its needs stay for) of what is kept for its own sake; the
    first said of an artifact counts.
    """
    for place in claims.held:
        said = str(place)
        yield place.artifact, said, said
    for item in items:
        if item.what == "lock" and item.busy:
            yield item.id, "in use now", f"{item.id}, in use now"
        elif item.what == "build" and item.id in builds:
            yield from (
                (one, f"needed by the build of {item.id}", f"the build of {item.id}")
                for one in item.inputs
            )
        elif item.what == "artifact" and (
            unfinished := item.inputs & builds
        ):  # a policy that a training has kept so far
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
    """Artifact -> why it stays: for its own sake where it is a root, else for the first root
    that needs it.
    """
    own: dict[str, tuple[str, str]] = {}
    for artifact, reason, label in roots:
        own.setdefault(artifact, (reason, label))
    why = {artifact: reason for artifact, (reason, _) in own.items()}
    for artifact, (_, label) in own.items():
        left = list(needs.get(artifact, ()))
        while left:
            if (one := left.pop()) not in why:
                why[one] = f"needed by {label}"
                left += needs.get(one, ())
    return why


def _why(
    item: Item,
    kept: Mapping[str, str],
    builds: Mapping[str, str],
    artifacts: Collection[str],
    since: float,
) -> str | None:
    """Why an item stays; None when it goes."""
    if item.what == "artifact":
        return kept.get(item.id)
    if item.what == "build":
        return builds.get(item.id)
    if item.what == "lock" and (item.busy or item.id in artifacts or item.id in builds):
        return "its artifact is there, or being made"
    return USED if item.used >= since and item.what != "trash" else None


# --------------------------------------------------------------------------------------- collecting


@dataclass(frozen=True)
class Collected:
    """What went of a plan, and what was spared because it was used, or came to be needed, after
    the plan was made.
    """

    went: tuple[Item, ...]
    spared: tuple[Item, ...]


def collect(store: Store, registry: Registry, plan: Plan) -> Collected:
    """Remove what a plan says goes, as far as nothing needs it by now.

    **Raises:** ValueError: another collection is under way.
    """
    locks = store.root / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock_path(store.root, COLLECTOR), blocking=False):
            return Collector(store, registry, plan).run()
    except Timeout as error:
        raise ValueError(
            f"another `erpd gc` is at work in {store.root}; wait until it is done"
        ) from error


class Collector:
    """One collection, by the holder of the collector's lock."""

    def __init__(self, store: Store, registry: Registry, plan: Plan) -> None:
        self.store, self.registry, self.plan = store, registry, plan
        self.trash = store.root / "trash"

    def run(self) -> Collected:
        self.trash.mkdir(exist_ok=True)
        went, spared = [], []
        needed: set[str] = set()
        for item in self.plan.goes:
            if item.what == "artifact" and item.id in needed:
                spared.append(item)
            elif item.what == "trash" or self._thrown(item):
                went.append(item)
            else:
                spared.append(item)
                needed |= self.plan.with_needs({item.id} | item.inputs)
        self._empty_trash()
        return Collected(tuple(went), tuple(spared))

    def _thrown(self, item: Item) -> bool:
        """Move an item to the trash, under its artifact's lock; False when somebody works under
        that, or when it is in use after all.
        """
        root = self.store.root
        with contextlib.suppress(Timeout), FileLock(lock_path(root, item.id), blocking=False):
            if not self._unneeded(item, item.path):
                return False
            if item.what != "lock":
                aside = self.trash / f"{item.id}.{time.time_ns()}"
                item.path.rename(aside)
                if not self._unneeded(item, aside):  # asked for between that look and this move
                    with contextlib.suppress(OSError):  # it has been fetched from the mirror again
                        aside.rename(item.path)
                    return False
            if not self._in_place(item.id):
                note_path(root, item.id).unlink(missing_ok=True)
                # who waits for it sees that its file is gone, and makes a new one
                lock_path(root, item.id).unlink()
            return True
        return False

    def _unneeded(self, item: Item, path: Path) -> bool:
        """Still, with the item at `path`?"""
        if item.what == "lock":
            return not self._in_place(item.id)
        if not 0 < last_used(item.what, path) < self.plan.since:
            return False
        return item.what != "artifact" or not self.registry.is_held(item.id)

    def _in_place(self, artifact: str) -> bool:
        return (
            self.store.path(artifact).exists() or (self.store.root / "partial" / artifact).exists()
        )

    def _empty_trash(self) -> None:
        """Remove what is there for good, what an interrupted collection left too, and say so in
        the registry.
        """
        make_durable(self.trash)  # the moves, before anything is taken apart
        for aside in sorted(self.trash.iterdir()):
            artifact = aside.name.rpartition(".")[0]
            elsewhere = self.store.mirror is not None and self.store.mirror.has(artifact)
            if not (elsewhere or self.store.path(artifact).exists()):
                self.registry.removed(artifact)
            shutil.rmtree(aside)
