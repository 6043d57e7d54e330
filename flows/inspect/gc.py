"""`erpd gc`: forget campaigns, and remove from the store what is no longer needed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.registry import CampaignRecord, Registry
from tasks.store import Store
from tasks.store.gc import Claims, Kept, Plan, collect, plan
from tasks.store.inventory import Item, take_inventory

SILENT = 86400.0
"""Seconds without an event after which a campaign of status `running` is taken to be killed."""
SHOWN = 10
"""Number of kept items, the largest ones, that are listed."""


@dataclass(frozen=True)
class Cleaned:
    """The result of a collection or, with `dry_run`, what it would do."""

    dry_run: bool
    forgotten: tuple[str, ...]
    plan: Plan
    went: tuple[Item, ...]
    """Removed, or to be removed."""
    spared: tuple[Item, ...] = ()
    """Planned for removal, but needed or used again before it."""

    @property
    def largest(self) -> list[Kept]:
        return sorted(self.plan.stays, key=lambda kept: -kept.item.size)[:SHOWN]

    @property
    def by_kind(self) -> dict[str, list[Item]]:
        """Kind -> removed items, the largest kind first.

        Kinds are `policy`, `rollouts`, ... and `unfinished builds`, `damaged copies`, `locks`, ...
        """
        kinds: dict[str, list[Item]] = defaultdict(list)
        for item in self.went:
            kinds[KINDS.get(item.what) or item.id.partition("-")[0]].append(item)
        return dict(sorted(kinds.items(), key=lambda pair: -total(pair[1])))

    def tree(self) -> dict[str, Any]:
        """As JSON."""
        kept = [kept.item for kept in self.plan.stays]
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
                "largest": [{**_named(large.item), "why": large.why} for large in self.largest],
            },
        }


KINDS = {
    "build": "unfinished builds",
    "damaged": "damaged copies",
    "fetched": "partial fetches",
    "lock": "locks",
    "trash": "trash",
}


def total(items: Sequence[Item]) -> int:
    """Size of items in bytes."""
    return sum(item.size for item in items)


def clean(
    registry: Registry, store: Store, forget: Sequence[str], days: float, dry_run: bool
) -> Cleaned:
    """Forget campaigns, and remove what is no longer needed.

    **Arguments:**
        forget: Ids or names of campaigns, or beginnings of either.
        days: How long an unneeded item is kept after its last use.
        dry_run: Only say what would be removed.
    **Raises:** LookupError for an unknown campaign; ValueError if a campaign to forget is running,
        or if another collection is.
    """
    campaigns = [registry.campaign(name) for name in forget]
    for campaign in campaigns:
        _check_ended(campaign)
    names = tuple(dict.fromkeys(campaign.id for campaign in campaigns))
    if not dry_run:
        for name in names:
            registry.forget(name)
    planned = plan(take_inventory(store), Claims.of(registry, but=names), time.time(), days)
    if dry_run:
        return Cleaned(dry_run, names, planned, planned.goes)
    done = collect(store, registry, planned)
    return Cleaned(dry_run, names, planned, done.went, done.spared)


def _check_ended(campaign: CampaignRecord) -> None:
    """Raise ValueError for a running campaign.

    A killed campaign may still have the status `running`; it has no new events.
    """
    if campaign.status != "running":
        return
    from flows.steps.human_decision import pending_decisions  # slow to import
    from tasks.host.home import events_path

    events = events_path(campaign.id)
    last_event = events.stat().st_mtime if events.exists() else campaign.created_at.timestamp()
    ends = [pending.until for pending in pending_decisions() if pending.campaign == campaign.id]
    if time.time() < max([last_event + SILENT, *ends]):
        raise ValueError(
            f"{campaign.id} is running; stop it before it is forgotten"
            " (if it was killed without recording it: run it again and interrupt it, or wait a day)"
        )


def _named(item: Item) -> dict[str, Any]:
    return {"what": item.what, "id": item.id, "bytes": item.size}
