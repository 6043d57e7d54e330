"""Where an artifact came from and what came of it: the edges between artifacts, walked by the
database, shown as a tree.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from erpd_core.refs import Frozen
from tasks.registry.tables import ArtifactRow, EdgeRow
from tasks.registry.values import Artifact

Direction = Literal["ancestors", "descendants"]


class Line(Frozen):
    """One line of the tree: an artifact, how deep it stands, and what the parent on this edge
    was to the child (None at the root).
    """

    depth: int
    role: str | None
    artifact: Artifact
    repeated: bool = False
    """It stands further up with everything below it, and is not opened again."""


class Lineage(Frozen):
    """What an artifact was made from (or what was made from it), as a tree written top down: a
    line's children follow it, one level deeper.

    The lineage is a graph; each artifact is opened once, so there are as many lines as edges,
    however many iterations share ancestors. It is a flat list because a long online stage is a
    chain deeper than Python recurses.

    Example: `student` / `  init: old` / `  signal: signal` / `    numerator: column` ...
    """

    lines: tuple[Line, ...]

    @property
    def ids(self) -> set[str]:
        """Identities of everything in the tree, the root included."""
        return {line.artifact.id for line in self.lines}


def tree(session: Session, artifact_id: str, direction: Direction) -> Lineage:
    """The tree of `artifact_id`'s ancestors or descendants, by one recursive query.

    **Raises:** LookupError: there is no such artifact.
    """
    here, there = (
        (EdgeRow.child, EdgeRow.parent)
        if direction == "ancestors"
        else (EdgeRow.parent, EdgeRow.child)
    )
    reached = (
        sa.select(here.label("here"), there.label("there"), EdgeRow.role)
        .where(here == artifact_id)
        .cte("reached", recursive=True)
    )
    reached = reached.union(sa.select(here, there, EdgeRow.role).where(here == reached.c.there))

    edges: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for source, target, role in session.execute(
        sa.select(reached).order_by(reached.c.role, reached.c.there)
    ):
        edges[source].append((role, target))
    wanted = sa.select(ArtifactRow).where(
        ArtifactRow.id.in_(sa.select(reached.c.there)) | (ArtifactRow.id == artifact_id)
    )
    artifacts = {row.id: artifact(row) for row in session.scalars(wanted)}
    if artifact_id not in artifacts:
        raise LookupError(f"no artifact {artifact_id!r} in the registry")

    lines: list[Line] = []
    opened: set[str] = set()
    waiting: list[tuple[int, str | None, str]] = [(0, None, artifact_id)]
    while waiting:
        depth, via, identity = waiting.pop()
        branches = [] if identity in opened else edges[identity]
        lines.append(
            Line(
                depth=depth,
                role=via,
                artifact=artifacts[identity],
                repeated=identity in opened and bool(edges[identity]),
            )
        )
        opened.add(identity)
        waiting += [(depth + 1, role, target) for role, target in reversed(branches)]
    return Lineage(lines=tuple(lines))


def artifact(row: ArtifactRow) -> Artifact:
    return Artifact.model_validate({name: getattr(row, name) for name in Artifact.model_fields})
