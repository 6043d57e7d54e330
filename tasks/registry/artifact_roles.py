"""Queries for the roles that artifacts play in campaigns.

A campaign that is not forgotten holds the artifacts that play a role in it: the garbage collector
keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from tasks.registry import database
from tasks.registry.tables import CampaignArtifactRow, CampaignRow, EdgeRow
from tasks.registry.values import ArtifactRole

Link = CampaignArtifactRow

_LINKS = (
    sa.select(Link.campaign_id, Link.iteration, Link.role, Link.artifact_id)
    .join(CampaignRow, CampaignRow.id == Link.campaign_id)
    .order_by(
        CampaignRow.created_at.desc(), Link.campaign_id, Link.iteration, Link.role, Link.artifact_id
    )
)


def held(session: Session) -> list[ArtifactRole]:
    """All roles in campaigns that are not forgotten, newest campaign first."""
    return _roles(session, _LINKS.where(CampaignRow.forgotten_at.is_(None)))


def roles(session: Session, artifacts: Sequence[str]) -> list[ArtifactRole]:
    """All roles of these artifacts, also in forgotten campaigns."""
    return [
        role
        for part in database.parts(artifacts)
        for role in _roles(session, _LINKS.where(Link.artifact_id.in_(part)))
    ]


def _roles(session: Session, query: sa.Select[tuple[str, int, str, str]]) -> list[ArtifactRole]:
    rows = session.execute(query)
    return [
        ArtifactRole(campaign=campaign, iteration=iteration, role=role, artifact=artifact)
        for campaign, iteration, role, artifact in rows
    ]


def is_held(session: Session, artifact: str) -> bool:
    """Whether a campaign that is not forgotten holds an artifact or anything made from it."""
    made = sa.select(EdgeRow.child).where(EdgeRow.parent == artifact).cte("made", recursive=True)
    made = made.union(sa.select(EdgeRow.child).where(EdgeRow.parent == made.c.child))
    it_or_made = (Link.artifact_id == artifact) | Link.artifact_id.in_(sa.select(made.c.child))
    return (
        session.execute(
            _LINKS.where(CampaignRow.forgotten_at.is_(None), it_or_made).limit(1)
        ).first()
        is not None
    )


def edges(session: Session) -> list[tuple[str, str]]:
    """All distinct (child, parent) pairs; the child was made from the parent."""
    return [
        (child, parent)
        for child, parent in session.execute(sa.select(EdgeRow.child, EdgeRow.parent).distinct())
    ]
