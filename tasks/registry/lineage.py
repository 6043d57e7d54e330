"""Ancestors and descendants of an artifact as a tree, found by one recursive database query."""

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
    """One line of the tree."""

    depth: int
    """Depth in the tree; the root has 0."""
    role: str | None
    """Role of the edge's parent for its child; None at the root."""
    artifact: Artifact
    repeated: bool = False
    """Whether it is expanded further up; its subtree is not repeated here."""


class Lineage(Frozen):
    """The ancestors (or descendants) of an artifact as a tree, listed from top to bottom.

    The children of a line follow it, one level deeper. The lineage is a graph: each artifact is
    expanded once, so there is one line for the root and one for each edge, however many iterations
    share ancestors. The tree is a flat list because the chain of a long online stage exceeds
    Python's recursion limit.

    **Example:** `student` / `  init: old` / `  signal: signal` / `    numerator: column` ...
    """

    lines: tuple[Line, ...]

    @property
    def ids(self) -> set[str]:
        """Identities of all artifacts in the tree, including the root."""
        return {line.artifact.id for line in self.lines}


def tree(session: Session, artifact_id: str, direction: Direction) -> Lineage:
    """Query the tree of an artifact's ancestors or descendants.

    **Raises:** LookupError for an unknown artifact.
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
    """Convert a row to a value."""
    return Artifact.model_validate({name: getattr(row, name) for name in Artifact.model_fields})
