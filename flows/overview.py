"""`erpd campaigns`: every campaign in one line, from the registry alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flows.results import Row, last_student, table_rows
from tasks.registry import Campaign, Registry


@dataclass(frozen=True)
class Overview:
    """A campaign and how far it came.

    Example: `Overview(campaign, done=2, asked=3, base=Row(0, "base", ...), student=Row(2, "student", ...))`
    """

    campaign: Campaign
    done: int
    """Iterations completed."""
    asked: int | None
    """Iterations its config asks for; None where it does not say."""
    base: Row | None
    student: Row | None
    """The last student that was measured."""

    @property
    def seconds(self) -> float:
        """From its first start to its end, or to now while it runs; pauses count."""
        return ((self.campaign.finished_at or datetime.now(UTC)) - self.campaign.created_at).total_seconds()

    def tree(self) -> dict[str, Any]:
        """As JSON."""
        measured = {"base": self.base, "student": self.student}
        return {
            **self.campaign.model_dump(mode="json", exclude={"config", "git_commit"}),
            "seconds": round(self.seconds, 1),
            "iterations": self.done,
            "iterations_asked": self.asked,
            **{role: row.report.model_dump(mode="json") if row else None for role, row in measured.items()},
        }


def overview(registry: Registry, forgotten: bool = False, last: int | None = None) -> list[Overview]:
    """Every campaign, or the `last` so many, the newest first; those that were forgotten only when asked for."""
    return [_overview(registry, one) for one in registry.campaigns(last, forgotten)]


def _overview(registry: Registry, campaign: Campaign) -> Overview:
    rows = table_rows(registry, campaign.id)
    done = sum(one.status == "completed" for one in registry.iterations(campaign.id))
    base = next((row for row in rows if row.role == "base"), None)
    return Overview(campaign, done, campaign.config.get("iterations"), base, last_student(rows))
