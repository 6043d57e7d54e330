"""`Registry`: all reads and writes of the database of campaigns and artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, get_args

import sqlalchemy as sa
from sqlalchemy.orm import Session

from erpd_core.refs import Decision, EvalReport, Score
from tasks.host.services import registry_url
from tasks.registry import artifact_roles, database
from tasks.registry.lineage import Lineage, artifact, tree
from tasks.registry.tables import (
    ArtifactRow,
    CampaignArtifactRow,
    CampaignRow,
    EdgeRow,
    IterationRow,
    ReportRow,
    ScoreRow,
)
from tasks.registry.values import (
    Artifact,
    ArtifactRole,
    Attached,
    CampaignRecord,
    IterationRecord,
    Kind,
    Reported,
    Status,
)

Parents = Mapping[str, str] | Iterable[tuple[str, str]]
"""Role -> identity, or (role, identity) pairs if a role occurs more than once."""


class Registry:
    """Campaigns, their decisions and scores, and the lineage of artifacts, in SQLite or PostgreSQL.

    - Campaigns: `campaign_started`, `iteration`, `record_decision`, `record_report`,
      `campaign_finished`, `forget`. Seconds are wall-clock seconds by phase.
    - Artifacts: `record_artifact` with its spec and inputs, `attach` to a role in a campaign,
      `removed` by the garbage collector.
    - Queries: `campaign`, `campaigns`, `unfinished`, `iterations`, `reports`, `artifacts`,
      `artifact`, `find_artifact`, `scores`, `lineage`, `descendants`, `places`, `held`, `is_held`,
      `edges`.

    All writes are idempotent: a resumed run writes the rows of the killed one again without
    duplicates. Times, seconds and decisions that are already recorded remain if a repeated write
    does not give them. Threads and processes may share one database.

    **Raises:** ValueError if the URL cannot be used or the database is damaged; RuntimeError if the
        database was written by a newer version; LookupError for an unknown campaign or artifact.

    **Example:**

        registry = Registry(f"sqlite:///{home}/registry.db")  # or
        "postgresql+psycopg://user@host/erpd" registry.campaign_started("tiny-0123456789", "tiny",
        recipe="tiny", config={"seed": 0}) registry.record_artifact("policy-base", "policy",
        {"name": "tiny"}) registry.record_artifact(
            "policy-new", "policy", {"steps": 10}, {"init": "policy-base"}, seconds=7.5
        )
        registry.attach("tiny-0123456789", 1, "student", "policy-new")
        registry.campaign_finished("tiny-0123456789")
        assert registry.lineage("policy-new").ids == {"policy-new", "policy-base"}
    """

    def __init__(self, url: str) -> None:
        self._engine = database.connect(url)
        database.upgrade(self._engine)

    def close(self) -> None:
        """Close the connections. The registry opens new ones if it is used again."""
        self._engine.dispose()

    def check(self) -> None:
        """Check the whole database; raises ValueError if it is damaged.

        Other calls also raise it when they read a damaged page.
        """
        database.check(self._engine)

    def _reading(self) -> Session:
        return Session(self._engine)

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with Session(database.writing(self._engine)) as session, session.begin():
            yield session

    # --------------------------------------------------------------------------------------- writes

    def campaign_started(
        self,
        id: str,
        name: str,
        recipe: str,
        config: Mapping[str, Any],
        git_commit: str | None = None,
    ) -> None:
        """Record that a campaign starts or resumes.

        A resumed campaign is `running` again, is no longer forgotten, and keeps its creation time.
        """
        row = {
            "id": id,
            "name": name,
            "recipe": recipe,
            "config": dict(config),
            "status": "running",
            "git_commit": git_commit,
        }
        with self._writing() as session:
            changes = {
                name for name in row if name != "id" and (name != "git_commit" or git_commit)
            } | {"finished_at", "forgotten_at"}
            blank = {"created_at": _now(), "finished_at": None, "forgotten_at": None}
            database.upsert(session, CampaignRow, row | blank, sorted(changes))

    def campaign_finished(self, id: str, status: Status = "completed") -> None:
        """Record that a campaign (by id) ended.

        **Raises:** LookupError for an unknown campaign, ValueError for an unknown status.
        """
        with self._writing() as session:
            row = _campaign_row(session, id)
            row.status, row.finished_at = _known("status", status, Status), _now()

    def iteration(
        self,
        campaign: str,
        index: int,
        status: Status = "running",
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        """Record that an iteration (1, 2, ...) starts, resumes or ends.

        `seconds` (wall-clock seconds by phase) are merged into the recorded ones, so that a resumed
        run that skips a phase keeps its time.

        **Raises:** ValueError for an index below 1 and for an unknown status, LookupError for an
            unknown campaign.
        """
        self._iteration(campaign, index, {"status": _known("status", status, Status)}, seconds)

    def record_decision(
        self,
        campaign: str,
        iteration: int,
        decision: Decision,
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        """Record the decision after an iteration's teacher, with its evidence.

        `seconds` and errors as in `iteration`.
        """
        changes = {"strategy": decision.strategy, "decision": decision.model_dump(mode="json")}
        self._iteration(campaign, iteration, changes, seconds)

    def _iteration(
        self,
        campaign: str,
        index: int,
        changes: dict[str, Any],
        seconds: Mapping[str, float] | None,
    ) -> None:
        if index < 1:
            raise ValueError(
                f"iterations count from 1, not {index} (0 is the campaign's base, which has no "
                f"decision)"
            )
        with self._writing() as session:
            _campaign_row(session, campaign)
            blank = {"campaign_id": campaign, "index": index, "status": "running", "seconds": {}}
            database.upsert(session, IterationRow, blank)
            row = session.get_one(IterationRow, (campaign, index))
            row.seconds = row.seconds | dict(seconds or {})
            for name, value in changes.items():
                setattr(row, name, value)

    def record_artifact(
        self,
        id: str,
        kind: Kind,
        spec: Mapping[str, Any],
        parents: Parents = (),
        meta: Mapping[str, Any] | None = None,
        seconds: float | None = None,
    ) -> None:
        """Record that an artifact exists and from which artifacts it was made.

        An artifact that is recorded again keeps its creation time, and its `meta` and `seconds` if
        they are not given. It no longer counts as removed.

        **Arguments:**
            id: Identity of the artifact.
            kind: Kind of the artifact.
            spec: Settings that affect its values.
            parents: Its inputs: role -> identity, or (role, identity) pairs if a role occurs twice.
            meta: Its stage's result.
            seconds: Seconds spent making it.
        **Raises:** LookupError if a parent is not recorded; ValueError for an unknown kind.
        """
        row = {
            "id": id,
            "kind": _known("kind", kind, Kind),
            "spec": dict(spec),
            "meta": dict(meta or {}),
            "seconds": seconds,
        }
        changes = [
            "kind",
            "spec",
            "removed_at",
            *(["meta"] if meta is not None else []),
            *(["seconds"] if seconds is not None else []),
        ]
        pairs = list(parents.items() if isinstance(parents, Mapping) else parents)
        with self._writing() as session:
            for role, parent in pairs:
                if session.get(ArtifactRow, parent) is None:
                    raise LookupError(
                        f"artifact {id!r}: its {role} {parent!r} is not in the registry; record "
                        f"that first"
                    )
            database.upsert(
                session, ArtifactRow, row | {"created_at": _now(), "removed_at": None}, changes
            )
            for role, parent in pairs:
                database.upsert(session, EdgeRow, {"child": id, "parent": parent, "role": role})

    def attach(self, campaign: str, iteration: int, role: str, artifact_id: str) -> None:
        """Record the role an artifact plays in a campaign (by id); iteration 0 is its base.

        **Raises:** LookupError for an unknown campaign or artifact.
        """
        with self._writing() as session:
            _campaign_row(session, campaign)
            if session.get(ArtifactRow, artifact_id) is None:
                raise LookupError(
                    f"no artifact {artifact_id!r} in the registry; record it before attaching it "
                    f"as {role}"
                )
            row = {
                "campaign_id": campaign,
                "iteration": iteration,
                "role": role,
                "artifact_id": artifact_id,
            }
            database.upsert(session, CampaignArtifactRow, row)

    def record_report(
        self, campaign: str, iteration: int | None, role: str, report: EvalReport
    ) -> None:
        """Record a policy's report and scores in a campaign (iteration 0 or None: its base).

        A later report of the same role in the same iteration replaces an earlier one.

        **Raises:** LookupError for an unknown campaign.
        """
        with self._writing() as session:
            _campaign_row(session, campaign)
            row = {
                "campaign_id": campaign,
                "iteration": iteration or 0,
                "role": role,
                "policy": report.policy,
            }
            database.upsert(
                session,
                ReportRow,
                row | {"report": report.model_dump(mode="json")},
                ("policy", "report"),
            )
            _write_scores(session, report.policy, report.scores)

    def forget(self, campaign: str) -> None:
        """Mark a campaign (by id) as forgotten: it no longer holds anything in the store.

        **Raises:** LookupError for an unknown campaign.
        """
        with self._writing() as session:
            row = _campaign_row(session, campaign)
            row.forgotten_at = row.forgotten_at or _now()

    def removed(self, artifact_id: str) -> None:
        """Record that an artifact's bytes were removed; its row remains.

        Does nothing for an artifact that was never recorded.
        """
        with self._writing() as session:
            gone = sa.update(ArtifactRow).where(
                ArtifactRow.id == artifact_id, ArtifactRow.removed_at.is_(None)
            )
            session.execute(gone.values(removed_at=_now()))

    # -------------------------------------------------------------------------------------- queries

    def campaigns(self, last: int | None = None, forgotten: bool = True) -> list[CampaignRecord]:
        """All campaigns, newest first.

        **Arguments:**
            last: Return only the newest `last` campaigns.
            forgotten: Include forgotten campaigns.
        """
        with self._reading() as session:
            wanted = (
                sa.select(CampaignRow)
                if forgotten
                else sa.select(CampaignRow).where(CampaignRow.forgotten_at.is_(None))
            )
            return [
                _campaign(row) for row in session.scalars(wanted.order_by(*_NEWEST).limit(last))
            ]

    def unfinished(self) -> list[CampaignRecord]:
        """Campaigns that are neither completed nor forgotten, newest first."""
        with self._reading() as session:
            wanted = sa.select(CampaignRow).where(
                CampaignRow.status != "completed", CampaignRow.forgotten_at.is_(None)
            )
            return [_campaign(row) for row in session.scalars(wanted.order_by(*_NEWEST))]

    def campaign(self, id_or_name: str) -> CampaignRecord:
        """Find a campaign by its id, its name, or a prefix of either.

        The newest campaign of a name is returned. A prefix must match only one name.

        **Raises:** LookupError if no campaign or several names match; the message lists them.
        """
        begins = [
            sa.func.substr(column, 1, len(id_or_name)) == id_or_name
            for column in (CampaignRow.id, CampaignRow.name)
        ]
        with self._reading() as session:
            newest = sa.select(CampaignRow).order_by(*_NEWEST)
            for exact in (CampaignRow.id == id_or_name, CampaignRow.name == id_or_name):
                if row := session.scalars(newest.where(exact).limit(1)).first():
                    return _campaign(row)
            names = (
                session.scalars(_names.where(sa.or_(*begins)).limit(_SHOWN)).all()
                if id_or_name
                else ()
            )
            if len(names) == 1 and (
                row := session.scalars(
                    newest.where(CampaignRow.name == names[0], sa.or_(*begins)).limit(1)
                ).first()
            ):
                return _campaign(row)
            known = names or session.scalars(_names.limit(_SHOWN)).all()
        listed = ", ".join(known) + (", ..." if len(known) == _SHOWN else "")
        if names:
            raise LookupError(
                f"{id_or_name!r} fits several campaigns: {listed}; give more of the name"
            )
        raise LookupError(
            f"no campaign {id_or_name!r}; known: {listed}"
            if listed
            else f"no campaign {id_or_name!r}: none has been run yet"
        )

    def iterations(self, campaign: str) -> list[IterationRecord]:
        """Iterations of a campaign (by id), in order."""
        return self.iterations_of([campaign])[campaign]

    def reports(self, campaign: str) -> list[Reported]:
        """Reports of a campaign (by id), by iteration (0: the base) and role."""
        return self.reports_of([campaign])[campaign]

    def artifacts(self, campaign: str) -> list[Attached]:
        """Artifacts that play a role in a campaign (by id), by iteration and role."""
        return self.artifacts_of([campaign])[campaign]

    def iterations_of(self, campaigns: Sequence[str]) -> dict[str, list[IterationRecord]]:
        """Campaign id -> its iterations, for many campaigns in few queries."""
        iterations: dict[str, list[IterationRecord]] = {id: [] for id in campaigns}
        wanted = sa.select(IterationRow).order_by(IterationRow.index)
        with self._reading() as session:
            for part in database.parts(campaigns):
                for row in session.scalars(wanted.where(IterationRow.campaign_id.in_(part))):
                    iteration = IterationRecord(
                        campaign_id=row.campaign_id,
                        index=row.index,
                        status=row.status,
                        decision=row.decision,
                        seconds=row.seconds,
                    )
                    iterations[row.campaign_id].append(iteration)
        return iterations

    def reports_of(self, campaigns: Sequence[str]) -> dict[str, list[Reported]]:
        """Campaign id -> its reports, for many campaigns in few queries."""
        reports: dict[str, list[Reported]] = {id: [] for id in campaigns}
        wanted = sa.select(ReportRow).order_by(ReportRow.iteration, ReportRow.role)
        with self._reading() as session:
            for part in database.parts(campaigns):
                for row in session.scalars(wanted.where(ReportRow.campaign_id.in_(part))):
                    reported = Reported(
                        iteration=row.iteration,
                        role=row.role,
                        report=EvalReport.model_validate(row.report),
                    )
                    reports[row.campaign_id].append(reported)
        return reports

    def artifacts_of(self, campaigns: Sequence[str], *kinds: Kind) -> dict[str, list[Attached]]:
        """Campaign id -> artifacts that play a role in it, for many campaigns in few queries.

        If `kinds` are given, only artifacts of these kinds.
        """
        attached: dict[str, list[Attached]] = {id: [] for id in campaigns}
        link = CampaignArtifactRow
        wanted = (
            sa.select(link.campaign_id, link.iteration, link.role, ArtifactRow)
            .join(ArtifactRow, ArtifactRow.id == link.artifact_id)
            .order_by(link.iteration, link.role, link.artifact_id)
        )
        if kinds:
            wanted = wanted.where(ArtifactRow.kind.in_(kinds))
        with self._reading() as session:
            for part in database.parts(campaigns):
                for campaign, iteration, role, row in session.execute(
                    wanted.where(link.campaign_id.in_(part))
                ):
                    attached[campaign].append(
                        Attached(iteration=iteration, role=role, artifact=artifact(row))
                    )
        return attached

    def artifact(self, id: str) -> Artifact:
        """Artifact by identity. Raises LookupError for an unknown artifact."""
        with self._reading() as session:
            row = session.get(ArtifactRow, id)
        if row is None:
            raise LookupError(f"no artifact {id!r} in the registry")
        return artifact(row)

    def find_artifact(self, beginning: str) -> Artifact:
        """Find an artifact by its identity or a unique prefix of it.

        **Raises:** LookupError if no artifact or several match; the message lists some.
        """
        with self._reading() as session:
            fits = sa.select(ArtifactRow).where(
                sa.func.substr(ArtifactRow.id, 1, len(beginning)) == beginning
            )
            rows = (
                list(session.scalars(fits.order_by(ArtifactRow.id).limit(6))) if beginning else []
            )
        if len(rows) == 1 or (rows and rows[0].id == beginning):
            return artifact(rows[0])
        if rows:
            some = ", ".join(row.id for row in rows[:5])
            raise LookupError(
                f"{beginning!r} begins several artifacts: "
                f"{some}{', ...' if len(rows) > 5 else ''}; give more of it"
            )
        raise LookupError(f"no artifact {beginning!r} in the registry")

    def scores(self, policy: str) -> dict[str, list[Score]]:
        """Scores of a policy by benchmark.

        A benchmark has several if the policy was evaluated with different numbers of samples or
        problems.
        """
        scores: dict[str, list[Score]] = {}
        with self._reading() as session:
            for row in session.scalars(
                sa.select(ScoreRow)
                .filter_by(policy=policy)
                .order_by(ScoreRow.benchmark, ScoreRow.problems, ScoreRow.k)
            ):
                score = Score(avg=row.avg, k=row.k, problems=row.problems, ci95=(row.lo, row.hi))
                scores.setdefault(row.benchmark, []).append(score)
        return scores

    def lineage(self, artifact_id: str) -> Lineage:
        """Tree of all artifacts from which an artifact was made.

        **Raises:** LookupError for an unknown artifact.
        """
        with self._reading() as session:
            return tree(session, artifact_id, "ancestors")

    def descendants(self, artifact_id: str) -> Lineage:
        """Tree of all artifacts that were made from an artifact.

        **Raises:** LookupError for an unknown artifact.
        """
        with self._reading() as session:
            return tree(session, artifact_id, "descendants")

    def roles(self, artifacts: Sequence[str]) -> list[ArtifactRole]:
        """Roles that these artifacts play in campaigns, also in forgotten ones."""
        with self._reading() as session:
            return artifact_roles.roles(session, artifacts)

    def held(self) -> list[ArtifactRole]:
        """Roles of artifacts in campaigns that are not forgotten, newest campaign first.

        The garbage collector keeps these artifacts.
        """
        with self._reading() as session:
            return artifact_roles.held(session)

    def is_held(self, artifact_id: str) -> bool:
        """Whether a campaign, not forgotten, holds an artifact or anything made from it."""
        with self._reading() as session:
            return artifact_roles.is_held(session, artifact_id)

    def edges(self) -> list[tuple[str, str]]:
        """All (child, parent) pairs; the child was made from the parent."""
        with self._reading() as session:
            return artifact_roles.edges(session)


def open_registry() -> Registry:
    """Open the registry at ERPD_REGISTRY_URL, or the one under ERPD_HOME if that is not set."""
    return Registry(registry_url())


_NEWEST = (CampaignRow.created_at.desc(), CampaignRow.id)
_names = (
    sa.select(CampaignRow.name)
    .group_by(CampaignRow.name)
    .order_by(sa.func.max(CampaignRow.created_at).desc(), CampaignRow.name)
)
_SHOWN = 10
"""Maximum number of campaign names in a message."""


def _now() -> datetime:
    return datetime.now(UTC)


def _known(what: str, value: str, allowed: Any) -> str:
    """Return `value` if the Literal `allowed` contains it; raises ValueError otherwise."""
    if value not in get_args(allowed):
        raise ValueError(f"{what} {value!r} is not one of {', '.join(get_args(allowed))}")
    return value


def _campaign_row(session: Session, id: str) -> CampaignRow:
    if (row := session.get(CampaignRow, id)) is None:
        raise LookupError(
            f"no campaign with id {id!r} in the registry; call campaign_started first"
        )
    return row


def _campaign(row: CampaignRow) -> CampaignRecord:
    return CampaignRecord.model_validate(
        {name: getattr(row, name) for name in CampaignRecord.model_fields}
    )


def _write_scores(session: Session, policy: str, scores: Mapping[str, Score]) -> None:
    for benchmark, score in scores.items():
        lo, hi = score.ci95
        row = {
            "policy": policy,
            "benchmark": benchmark,
            "k": score.k,
            "problems": score.problems,
            "avg": score.avg,
            "lo": lo,
            "hi": hi,
        }
        database.upsert(session, ScoreRow, row, ("avg", "lo", "hi"))
