"""A store and a registry with artifacts of chosen ages, for tests of garbage collection."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.registry import Registry
from tasks.store import Store
from tasks.store.gc import Claims, Plan, collect, plan
from tasks.store.inventory import take_inventory
from tasks.store.manifest import MANIFEST

DAY = 86400.0


class Lab:
    """A store and a registry in one home, with artifacts of any age that a test needs."""

    def __init__(self, home: Path, url: str = "") -> None:
        self.home, self.url = home, url or f"sqlite:///{home}/registry.db"
        self.store = Store(home / "store")
        self.registry = Registry(self.url)

    def make(
        self,
        name: str,
        *made_from: str,
        days: float = 30.0,
        trail: tuple[str, ...] = (),
        kind: str = "thing",
    ) -> str:
        """Store a small artifact made from others, `days` old; returns its identity."""
        with self.store.build(
            kind, {"name": name}, {str(n): parent for n, parent in enumerate(made_from)}, 1
        ) as build:
            assert build is not None
            build.put("bytes", lambda path: path.write_text(name * 100))
            build.commit({"ref": {"id": build.id, "trail": [{"id": policy} for policy in trail]}})
        self.age(build.id, days)
        return build.id

    def age(self, artifact: str, days: float) -> None:
        moment = time.time() - days * DAY
        os.utime(self.store.path(artifact) / MANIFEST, (moment, moment))

    def record(self, artifact: str, parents: list[str] | None = None) -> None:
        """Record an artifact in the registry as flows do; `parents` selects some of its edges."""
        every = list(self.store.manifest(artifact).inputs.values())
        self.registry.record_artifact(
            artifact,
            "policy",
            {},
            [("from", parent) for parent in (every if parents is None else parents)],
        )

    def campaign(self, name: str, *holds: str, status: Any = "completed") -> str:
        self.registry.campaign_started(name, name, "tiny", {})
        for artifact in holds:
            self.registry.attach(name, 1, "student", artifact)
        if status != "running":
            self.registry.campaign_finished(name, status)
        return name

    def plan(self, days: float = 7.0, *but: str) -> Plan:
        return plan(take_inventory(self.store), Claims.of(self.registry, but), time.time(), days)

    def collect(self, days: float = 7.0) -> set[str]:
        """Collect garbage; returns the identities of the deleted artifacts."""
        return {item.id for item in collect(self.store, self.registry, self.plan(days)).went}

    def there(self) -> set[str]:
        """Identities of all artifacts, listed without counting as a use of them."""
        return {item.id for item in take_inventory(self.store) if item.what == "artifact"}

    def whole(self, *artifacts: str) -> bool:
        return all(self.store.damage(artifact) is None for artifact in artifacts)


class Busy(Registry):
    """The same registry; after the n-th call of `is_held` it runs `happens`, a concurrent event."""

    def __init__(self, registry: Registry, moment: int, happens: Callable[[], None]) -> None:
        self._engine, self.moment, self.happens = registry._engine, moment, happens

    def is_held(self, artifact_id: str) -> bool:
        self.moment -= 1
        answer = super().is_held(artifact_id)
        if self.moment == -1:
            self.happens()
        return answer
