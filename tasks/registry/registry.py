"""`Registry`: everything that is written about campaigns and artifacts, and everything that is
asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, get_args

import sqlalchemy as sa
from sqlalchemy.orm import Session

from erpd_core.refs import Decision, EvalReport, Score
from tasks.host.services import registry_url
from tasks.registry import database, places
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
    Campaign,
    Iteration,
    Kind,
    Reported,
    Status,
)

Parents = Mapping[str, str] | Iterable[tuple[str, str]]


class Registry:
    """The lineage of everything that was made, in SQLite or PostgreSQL.

    Every write may be said again: a resumed run writes the rows of the killed one, and nothing
    doubles. Times, seconds and decisions that are already known survive a repetition that does not
    know them. Threads and processes may share one database.

    Example: `Registry(f"sqlite:///{home}/registry.db")`,
    `Registry("postgresql+psycopg://user:secret@host/erpd")`

    **Raises:** ValueError: the URL cannot be used; RuntimeError: the database was written by a
    newer version.
    """

    def __init__(self, url: str) -> None:
        self._engine = database.connect(url)
        database.upgrade(self._engine)

    def close(self) -> None:
        """Close the connections; the registry opens new ones when it is used again."""
        self._engine.dispose()

    def check(self) -> None:
        """Raises ValueError when the database is damaged. Other calls say it too, as soon as
        they come to a page that is.
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
        """A campaign begins, or is resumed: it is `running` again and no longer forgotten, its
        creation time stays.
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
        """A campaign ended. **Raises:** LookupError: it was never started; ValueError: unknown
        status.
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
        """An iteration (1, 2, ...) begins, is resumed or ends. `seconds` by phase are added to
        those known already, so a resumed run that skipped a phase leaves its time alone.
        """
        self._iteration(campaign, index, {"status": _known("status", status, Status)}, seconds)

    def record_decision(
        self,
        campaign: str,
        iteration: int,
        decision: Decision,
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        """What was decided after the iteration's teacher, with its evidence; `seconds` as in
        `iteration`.
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
        """An artifact exists, made from `parents`: role -> identity, or (role, identity) pairs
        where a role occurs twice.

        Said again, it keeps its creation time, and `meta` and `seconds` when they are not given;
        one that was removed is there again.

        **Raises:** LookupError: a parent is not recorded; ValueError: unknown kind.
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
        """An artifact plays a role in a campaign; iteration 0 is its base. **Raises:**
        LookupError: one of the two is not recorded.
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
        """A policy's report in a campaign (iteration 0 or None: its base), and its scores. The
        last one said counts.
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

    def record_scores(self, policy: str, scores: Mapping[str, Score]) -> None:
        """Scores of a policy outside any campaign (`erpd eval`)."""
        with self._writing() as session:
            _write_scores(session, policy, scores)

    def forget(self, campaign: str) -> None:
        """The campaign (by id) holds on to nothing in the store any more. **Raises:**
        LookupError: there is none.
        """
        with self._writing() as session:
            row = _campaign_row(session, campaign)
            row.forgotten_at = row.forgotten_at or _now()

    def removed(self, artifact_id: str) -> None:
        """An artifact's bytes are gone; what is known of it stays. One that was never recorded
        is passed over.
        """
        with self._writing() as session:
            gone = sa.update(ArtifactRow).where(
                ArtifactRow.id == artifact_id, ArtifactRow.removed_at.is_(None)
            )
            session.execute(gone.values(removed_at=_now()))

    # ------------------------------------------------------------------------------------ questions

    def campaigns(self, last: int | None = None, forgotten: bool = True) -> list[Campaign]:
        """Every campaign, or the `last` so many, newest first; those that were forgotten too,
        unless told otherwise.
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

    def unfinished(self) -> list[Campaign]:
        """Campaigns that are not completed, nor forgotten, newest first."""
        with self._reading() as session:
            wanted = sa.select(CampaignRow).where(
                CampaignRow.status != "completed", CampaignRow.forgotten_at.is_(None)
            )
            return [_campaign(row) for row in session.scalars(wanted.order_by(*_NEWEST))]

    def campaign(self, id_or_name: str) -> Campaign:
        """A campaign by its id, its name (the latest of that name), or a beginning of either that
        fits one name only.

        **Raises:** LookupError: none fits, or several do; the message names them.
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
        said = ", ".join(known) + (", ..." if len(known) == _SHOWN else "")
        if names:
            raise LookupError(
                f"{id_or_name!r} fits several campaigns: {said}; give more of the name"
            )
        raise LookupError(
            f"no campaign {id_or_name!r}; known: {said}"
            if said
            else f"no campaign {id_or_name!r}: none has been run yet"
        )

    def iterations(self, campaign: str) -> list[Iteration]:
        """The iterations of a campaign (by id), in order."""
        return self.iterations_of([campaign])[campaign]

    def reports(self, campaign: str) -> list[Reported]:
        """Every report of a campaign (by id): the base (iteration 0) first, then by iteration
        and role.
        """
        return self.reports_of([campaign])[campaign]

    def artifacts(self, campaign: str) -> list[Attached]:
        """What played a role in a campaign (by id), by iteration and role."""
        return self.artifacts_of([campaign])[campaign]

    def iterations_of(self, campaigns: Sequence[str]) -> dict[str, list[Iteration]]:
        """Campaign -> its iterations, of many campaigns in few queries."""
        found: dict[str, list[Iteration]] = {id: [] for id in campaigns}
        wanted = sa.select(IterationRow).order_by(IterationRow.index)
        with self._reading() as session:
            for part in database.parts(campaigns):
                for row in session.scalars(wanted.where(IterationRow.campaign_id.in_(part))):
                    one = Iteration(
                        campaign_id=row.campaign_id,
                        index=row.index,
                        status=row.status,
                        decision=row.decision,
                        seconds=row.seconds,
                    )
                    found[row.campaign_id].append(one)
        return found

    def reports_of(self, campaigns: Sequence[str]) -> dict[str, list[Reported]]:
        """Campaign -> its reports, of many campaigns in few queries."""
        found: dict[str, list[Reported]] = {id: [] for id in campaigns}
        wanted = sa.select(ReportRow).order_by(ReportRow.iteration, ReportRow.role)
        with self._reading() as session:
            for part in database.parts(campaigns):
                for row in session.scalars(wanted.where(ReportRow.campaign_id.in_(part))):
                    one = Reported(
                        iteration=row.iteration,
                        role=row.role,
                        report=EvalReport.model_validate(row.report),
                    )
                    found[row.campaign_id].append(one)
        return found

    def artifacts_of(self, campaigns: Sequence[str], *kinds: Kind) -> dict[str, list[Attached]]:
        """Campaign -> what played a role in it, of many campaigns in few queries; of some kinds
        only, where kinds are given.
        """
        found: dict[str, list[Attached]] = {id: [] for id in campaigns}
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
                    found[campaign].append(
                        Attached(iteration=iteration, role=role, artifact=artifact(row))
                    )
        return found

    def artifact(self, id: str) -> Artifact:
        """**Raises:** LookupError: there is no such artifact."""
        with self._reading() as session:
            row = session.get(ArtifactRow, id)
        if row is None:
            raise LookupError(f"no artifact {id!r} in the registry")
        return artifact(row)

    def find_artifact(self, beginning: str) -> Artifact:
        """The one artifact whose identity is this, or begins so. **Raises:** LookupError: none
        does, or several do; it names some.
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
        """Scores of a policy by benchmark; several where it was measured with other numbers of
        samples or problems.
        """
        found: dict[str, list[Score]] = {}
        with self._reading() as session:
            for row in session.scalars(
                sa.select(ScoreRow)
                .filter_by(policy=policy)
                .order_by(ScoreRow.benchmark, ScoreRow.problems, ScoreRow.k)
            ):
                score = Score(avg=row.avg, k=row.k, problems=row.problems, ci95=(row.lo, row.hi))
                found.setdefault(row.benchmark, []).append(score)
        return found

    def lineage(self, artifact_id: str) -> Lineage:
        """The tree of everything the artifact was made from. **Raises:** LookupError: there is
        no such artifact.
        """
        with self._reading() as session:
            return tree(session, artifact_id, "ancestors")

    def descendants(self, artifact_id: str) -> Lineage:
        """The tree of everything that was made from the artifact. **Raises:** LookupError: there
        is no such artifact.
        """
        with self._reading() as session:
            return tree(session, artifact_id, "descendants")

    def places(self, artifacts: Sequence[str]) -> list[ArtifactRole]:
        """Where these artifacts play a role, in forgotten campaigns too."""
        with self._reading() as session:
            return places.places(session, artifacts)

    def held(self) -> list[ArtifactRole]:
        """Everything that campaigns which are not forgotten hold on to, the newest campaign
        first.
        """
        with self._reading() as session:
            return places.held(session)

    def is_held(self, artifact_id: str) -> bool:
        """Does a campaign that is not forgotten hold this artifact, or anything made from it?"""
        with self._reading() as session:
            return places.is_held(session, artifact_id)

    def edges(self) -> list[tuple[str, str]]:
        """Every (child, parent)."""
        with self._reading() as session:
            return places.edges(session)


def open_registry() -> Registry:
    """The registry that the environment names, else the one under ERPD_HOME."""
    return Registry(registry_url())


_NEWEST = (CampaignRow.created_at.desc(), CampaignRow.id)
_names = (
    sa.select(CampaignRow.name)
    .group_by(CampaignRow.name)
    .order_by(sa.func.max(CampaignRow.created_at).desc(), CampaignRow.name)
)
_SHOWN = 10
"""Names of campaigns in a message."""


def _now() -> datetime:
    return datetime.now(UTC)


def _known(what: str, value: str, allowed: Any) -> str:
    if value not in get_args(allowed):
        raise ValueError(f"{what} {value!r} is not one of {', '.join(get_args(allowed))}")
    return value


def _campaign_row(session: Session, id: str) -> CampaignRow:
    if (row := session.get(CampaignRow, id)) is None:
        raise LookupError(f"no campaign with id {id!r} in the registry; say campaign_started first")
    return row


def _campaign(row: CampaignRow) -> Campaign:
    return Campaign.model_validate({name: getattr(row, name) for name in Campaign.model_fields})


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
