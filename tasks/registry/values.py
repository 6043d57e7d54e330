"""What the registry answers with: frozen values, apart from the database that held them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from erpd_core.refs import Decision, EvalReport, Frozen

Status = Literal["running", "completed", "failed", "killed"]
Kind = Literal[
    "policy", "rollouts", "column", "signal", "problems", "training", "critic", "evaluation"
]


class Campaign(Frozen):
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
    """From then on it keeps nothing in the store (`erpd gc --forget`)."""


class Iteration(Frozen):
    """One iteration (1, 2, ...) of a campaign; `decision` is None until it is taken."""

    campaign_id: str
    index: int
    status: Status
    decision: Decision | None
    seconds: dict[str, float]
    """Wall-clock seconds by phase."""


class Artifact(Frozen):
    """One thing in the store: `spec` is what was asked, `meta` what came out."""

    id: str
    kind: str
    spec: dict[str, Any]
    meta: dict[str, Any]
    created_at: datetime
    seconds: float | None
    removed_at: datetime | None = None
    """When the garbage collector removed its bytes; None while they are there."""


class ArtifactRole(Frozen):
    """Where an artifact plays a role.

    Example: `ArtifactRole(campaign="tiny-0123456789", iteration=2, role="student",
    artifact="policy-5f1c...")`
    """

    campaign: str
    iteration: int
    role: str
    artifact: str

    def __str__(self) -> str:
        """As `erpd lineage` reads it."""
        return f"{self.campaign}:{self.iteration}.{self.role}"


class Attached(Frozen):
    """The role an artifact plays in a campaign; iteration 0 is the campaign's base."""

    iteration: int
    role: str
    artifact: Artifact


class Reported(Frozen):
    """A policy's report in a campaign; iteration 0 is the campaign's base."""

    iteration: int
    role: str
    report: EvalReport
