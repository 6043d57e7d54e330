"""`erpd campaigns`: a summary of every campaign, read from the registry only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flows.reports.results import PolicyRow, last_student, rows_of
from tasks.registry import CampaignRecord, IterationRecord, Registry


@dataclass(frozen=True)
class CampaignSummary:
    """A campaign, its progress and its scores.

    **Example:** `CampaignSummary(campaign, done=2, asked=3, base=PolicyRow(0, "base", ...),
    student=PolicyRow(2, "student", ...))`
    """

    campaign: CampaignRecord
    done: int
    """Iterations completed."""
    asked: int | None
    """Iterations that its config sets; None if it has no such key."""
    base: PolicyRow | None
    student: PolicyRow | None
    """The last measured student."""

    @property
    def seconds(self) -> float:
        """Seconds from its first start to its end, or until now while it runs; pauses count."""
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
) -> list[CampaignSummary]:
    """A summary of every campaign, the newest first.

    **Arguments:**
        forgotten: Whether forgotten campaigns are included.
        last: Only this many of the newest; None for all.
    """
    campaigns = registry.campaigns(last, forgotten)
    ids = [campaign.id for campaign in campaigns]
    iterations, policies, reports = (
        registry.iterations_of(ids),
        registry.artifacts_of(ids, "policy"),
        registry.reports_of(ids),
    )
    return [
        _summary(
            campaign,
            rows_of(iterations[campaign.id], policies[campaign.id], reports[campaign.id]),
            iterations[campaign.id],
        )
        for campaign in campaigns
    ]


def _summary(
    campaign: CampaignRecord, rows: Sequence[PolicyRow], iterations: Sequence[IterationRecord]
) -> CampaignSummary:
    done = sum(iteration.status == "completed" for iteration in iterations)
    base = next((row for row in rows if row.role == "base"), None)
    asked = campaign.config.get("iterations")
    return CampaignSummary(campaign, done, asked, base, last_student(rows))
