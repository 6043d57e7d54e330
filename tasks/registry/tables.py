"""The tables of the registry.

A change here needs a migration (`tasks/registry/migrations/versions/`); a test compares the two.

| tables | content |
|---|---|
| campaigns --< iterations | what was run and decided |
| campaigns --< campaign_artifacts >-- artifacts | which artifact plays which role in an iteration |
| artifacts --< edges >-- artifacts | what an artifact was made from (child -> parent) |
| campaigns --< reports | evaluation reports, complete |
| scores | the reports' scores by policy and benchmark |

Iteration 0 is the campaign's base; iterations proper count from 1.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(sa.TypeDecorator[datetime]):
    """A time in UTC.

    SQLite drops the time zone; this type restores it, so that both databases return the same.
    """

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base class of all tables.

    Constraints have fixed names, so that migrations can drop them on every database.
    """

    metadata = sa.MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
        }
    )
    type_annotation_map = {
        str: sa.Text(),
        float: sa.Double(),
        dict[str, Any]: sa.JSON(),
        datetime: UtcDateTime(),
    }


class CampaignRow(Base):
    """One run of a recipe."""

    __tablename__ = "campaigns"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    recipe: Mapped[str]
    config: Mapped[dict[str, Any]]
    status: Mapped[str]
    """running | completed | failed | killed"""
    git_commit: Mapped[str | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    forgotten_at: Mapped[datetime | None]
    """When it was forgotten. Since then it holds nothing in the store."""


class IterationRow(Base):
    """One iteration of a campaign and its decision."""

    __tablename__ = "iterations"
    campaign_id: Mapped[str] = mapped_column(sa.ForeignKey("campaigns.id"), primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    status: Mapped[str]
    """running | completed | failed | killed"""
    strategy: Mapped[str | None]
    decision: Mapped[dict[str, Any] | None]
    seconds: Mapped[dict[str, Any]]
    """Wall-clock seconds by phase."""


class ArtifactRow(Base):
    """One artifact of the store."""

    __tablename__ = "artifacts"
    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(index=True)
    """policy | rollouts | column | signal | problems | training | critic | evaluation"""
    spec: Mapped[dict[str, Any]]
    """Settings that affect its values."""
    meta: Mapped[dict[str, Any]]
    """Its stage's result: sequences, tokens, accuracy, bytes, ..."""
    created_at: Mapped[datetime]
    seconds: Mapped[float | None]
    """Seconds spent making it."""
    removed_at: Mapped[datetime | None]
    """When the garbage collector removed its bytes; None while the store has them."""


class EdgeRow(Base):
    """An artifact (child) and one artifact it was made from (parent)."""

    __tablename__ = "edges"
    child: Mapped[str] = mapped_column(sa.ForeignKey("artifacts.id"), primary_key=True)
    parent: Mapped[str] = mapped_column(sa.ForeignKey("artifacts.id"), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    """Role of the parent for the child: policy, problems, loss-old, numerator, denominator, init,
    ...
    """


class CampaignArtifactRow(Base):
    """The role an artifact plays in one iteration of a campaign."""

    __tablename__ = "campaign_artifacts"
    campaign_id: Mapped[str] = mapped_column(sa.ForeignKey("campaigns.id"), primary_key=True)
    iteration: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    role: Mapped[str] = mapped_column(primary_key=True)
    artifact_id: Mapped[str] = mapped_column(
        sa.ForeignKey("artifacts.id"), primary_key=True, index=True
    )


class ScoreRow(Base):
    """AVG@K of a policy on the problems of a benchmark, with its 95 % interval."""

    __tablename__ = "scores"
    policy: Mapped[str] = mapped_column(primary_key=True)
    benchmark: Mapped[str] = mapped_column(primary_key=True)
    k: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    problems: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    avg: Mapped[float]
    lo: Mapped[float]
    hi: Mapped[float]


class ReportRow(Base):
    """The evaluation report of a policy in a campaign."""

    __tablename__ = "reports"
    campaign_id: Mapped[str] = mapped_column(sa.ForeignKey("campaigns.id"), primary_key=True)
    iteration: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    role: Mapped[str] = mapped_column(primary_key=True)
    policy: Mapped[str] = mapped_column(index=True)
    report: Mapped[dict[str, Any]]
