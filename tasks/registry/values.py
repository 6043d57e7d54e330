"""Values that the registry returns: frozen and independent of the database connection."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from erpd_core.refs import Decision, EvalReport, Frozen

Status = Literal["running", "completed", "failed", "killed"]
Kind = Literal[
    "policy",
    "rollouts",
    "column",
    "signal",
    "problems",
    "training",
    "critic",
    "evaluation",
    "race",
    "gain",
]


class CampaignRecord(Frozen):
    """One run of a recipe. Times are UTC; `finished_at` is None while it runs."""

    id: str
    name: str
    recipe: str
    config: dict[str, Any]
    status: Status
    git_commit: str | None
    created_at: datetime
    finished_at: datetime | None
    forgotten_at: datetime | None = None
    """When it was forgotten (`erpd gc --forget`). Since then it holds nothing in the store."""


class IterationRecord(Frozen):
    """One iteration (1, 2, ...) of a campaign; `decision` is None until it is made."""

    campaign_id: str
    index: int
    status: Status
    decision: Decision | None
    seconds: dict[str, float]
    """Wall-clock seconds by phase."""


class Artifact(Frozen):
    """An artifact of the store."""

    id: str
    kind: str
    spec: dict[str, Any]
    """Settings that affect its values."""
    meta: dict[str, Any]
    """Its stage's result: sequences, tokens, accuracy, bytes, ..."""
    created_at: datetime
    """When it was first recorded, UTC."""
    seconds: float | None
    """Seconds spent making it; None if unknown."""
    removed_at: datetime | None = None
    """When the garbage collector removed its bytes, UTC; None while the store has them."""


class ArtifactRole(Frozen):
    """The role an artifact plays in a campaign, by identities.

    **Example:** `ArtifactRole(campaign="tiny-0123456789", iteration=2, role="student",
    artifact="policy-5f1c...")`
    """

    campaign: str
    """Id of the campaign."""
    iteration: int
    """Iteration in which it plays the role; 0 is the campaign's base."""
    role: str
    """Such as `teacher`, `student` or `rollouts`."""
    artifact: str
    """Identity of the artifact."""

    def __str__(self) -> str:
        """The form that `erpd lineage` accepts: `CAMPAIGN:ITERATION.ROLE`."""
        return f"{self.campaign}:{self.iteration}.{self.role}"


class Attached(Frozen):
    """An artifact and the role it plays in a campaign; iteration 0 is the campaign's base."""

    iteration: int
    role: str
    artifact: Artifact


class Reported(Frozen):
    """A policy's report in a campaign; iteration 0 is the campaign's base."""

    iteration: int
    role: str
    report: EvalReport
