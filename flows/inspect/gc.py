"""`erpd gc`: forget campaigns, and remove from the store what nothing needs any more."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.registry import Campaign, Registry
from tasks.store import Store
from tasks.store.gc import Claims, Kept, Plan, collect, plan
from tasks.store.inventory import Item, take_inventory

SILENT = 86400.0
"""Seconds without a word from a campaign whose status is running, after which it is taken for
one that was killed.
"""
SHOWN = 10
"""Things that stay, the largest, that are named."""


@dataclass(frozen=True)
class Cleaned:
    """What a collection did or, with `dry_run`, what it would do."""

    dry_run: bool
    forgotten: tuple[str, ...]
    plan: Plan
    went: tuple[Item, ...]
    spared: tuple[Item, ...] = ()
    """Planned to go, and needed or used again before it did."""

    @property
    def largest(self) -> list[Kept]:
        return sorted(self.plan.stays, key=lambda kept: -kept.item.size)[:SHOWN]

    @property
    def by_kind(self) -> dict[str, list[Item]]:
        """What went, the largest kind first: `policy`, `rollouts`, ... and `unfinished builds`,
        `damaged copies`, `locks`, ...
        """
        kinds: dict[str, list[Item]] = defaultdict(list)
        for item in self.went:
            kinds[KINDS.get(item.what) or item.id.partition("-")[0]].append(item)
        return dict(sorted(kinds.items(), key=lambda pair: -total(pair[1])))

    def tree(self) -> dict[str, Any]:
        """As JSON."""
        kept = [one.item for one in self.plan.stays]
        return {
            "dry_run": self.dry_run,
            "forgotten": list(self.forgotten),
            "used_before": self.plan.since,
            "because": self.plan.because,
            "removed": {"bytes": total(self.went), "items": [_named(item) for item in self.went]},
            "spared": [_named(item) for item in self.spared],
            "kept": {
                "bytes": total(kept),
                "count": len(kept),
                "largest": [{**_named(one.item), "why": one.why} for one in self.largest],
            },
        }


KINDS = {
    "build": "unfinished builds",
    "damaged": "damaged copies",
    "fetched": "half fetched",
    "lock": "locks",
    "trash": "trash",
}


def total(items: Sequence[Item]) -> int:
    return sum(item.size for item in items)


def clean(
    registry: Registry, store: Store, forget: Sequence[str], days: float, dry_run: bool
) -> Cleaned:
    """Forget these campaigns (ids, names, or beginnings) and collect; `days` is how long something
    not needed stays after its last use.

    **Raises:** LookupError: no such campaign; ValueError: one is at work, or another collection is
    under way.
    """
    campaigns = [registry.campaign(name) for name in forget]
    for campaign in campaigns:
        _check_ended(campaign)
    names = tuple(dict.fromkeys(campaign.id for campaign in campaigns))
    if not dry_run:
        for name in names:
            registry.forget(name)
    found = plan(take_inventory(store), Claims.of(registry, but=names), time.time(), days)
    if dry_run:
        return Cleaned(dry_run, names, found, found.goes)
    done = collect(store, registry, found)
    return Cleaned(dry_run, names, found, done.went, done.spared)


def _check_ended(campaign: Campaign) -> None:
    """Of a campaign killed without a word the status is still `running`; its silence tells."""
    if campaign.status != "running":
        return
    from flows.steps.human_decision import pending_decisions  # slow to import
    from tasks.host.home import events_path

    events = events_path(campaign.id)
    heard = events.stat().st_mtime if events.exists() else campaign.created_at.timestamp()
    asked = [one.until for one in pending_decisions() if one.campaign == campaign.id]
    if time.time() < max([heard + SILENT, *asked]):
        raise ValueError(
            f"{campaign.id} is running; stop it before it is forgotten"
            " (if it was killed without a word: run it again and interrupt it, or wait a day)"
        )


def _named(item: Item) -> dict[str, Any]:
    return {"what": item.what, "id": item.id, "bytes": item.size}
