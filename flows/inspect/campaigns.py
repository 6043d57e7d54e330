"""`erpd campaigns`: every campaign in one line, from the registry alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flows.reports.results import PolicyRow, last_student, rows_of
from tasks.registry import Campaign, Iteration, Registry


@dataclass(frozen=True)
class Overview:
    """A campaign and how far it came.

    Example: `Overview(campaign, done=2, asked=3, base=Row(0, "base", ...), student=Row(2,
    "student", ...))`
    """

    campaign: Campaign
    done: int
    """Iterations completed."""
    asked: int | None
    """Iterations its config asks for; None where it does not say."""
    base: PolicyRow | None
    student: PolicyRow | None
    """The last student that was measured."""

    @property
    def seconds(self) -> float:
        """From its first start to its end, or to now while it runs; pauses count."""
        return (
            (self.campaign.finished_at or datetime.now(UTC)) - self.campaign.created_at
        ).total_seconds()

    def tree(self) -> dict[str, Any]:
        """As JSON."""
        measured = {"base": self.base, "student": self.student}
        return {
            **self.campaign.model_dump(mode="json", exclude={"config", "git_commit"}),
            "seconds": round(self.seconds, 1),
            "iterations": self.done,
            "iterations_asked": self.asked,
            **{
                role: row.report.model_dump(mode="json") if row else None
                for role, row in measured.items()
            },
        }


def campaign_summaries(
    registry: Registry, forgotten: bool = False, last: int | None = None
) -> list[Overview]:
    """Every campaign, or the `last` so many, the newest first; those that were forgotten only
    when asked for.
    """
    campaigns = registry.campaigns(last, forgotten)
    ids = [one.id for one in campaigns]
    iterations, policies, reports = (
        registry.iterations_of(ids),
        registry.artifacts_of(ids, "policy"),
        registry.reports_of(ids),
    )
    return [
        _overview(
            one, rows_of(iterations[one.id], policies[one.id], reports[one.id]), iterations[one.id]
        )
        for one in campaigns
    ]


def _overview(
    campaign: Campaign, rows: Sequence[PolicyRow], iterations: Sequence[Iteration]
) -> Overview:
    done = sum(one.status == "completed" for one in iterations)
    base = next((row for row in rows if row.role == "base"), None)
    return Overview(campaign, done, campaign.config.get("iterations"), base, last_student(rows))
