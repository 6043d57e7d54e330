"""`erpd lineage`: what an artifact was made from or what was made from it, with key figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from erpd_core.refs import Decision
from flows.reports.results import nats, percent
from tasks.registry import Artifact, ArtifactRole, Line, Registry

PLACE = re.compile(r"(?:(?P<iteration>\d+)\.)?(?P<role>.+)")


@dataclass(frozen=True)
class LineageLine:
    """A line of the tree: an artifact with its figures and its roles in campaigns.

    **Example:** `LineageLine(line, figures={"role": "student", "step": 16, "scores": {"test":
    0.65}}, places=(ArtifactRole(...),), decision=Decision(...))`
    """

    line: Line
    figures: Mapping[str, Any]
    places: tuple[ArtifactRole, ...]
    """Campaigns and iterations in which it has a role."""
    decision: Decision | None = None
    """Decision of the iteration whose student it is; only at the first line of that student."""

    def tree(self) -> dict[str, Any]:
        """As JSON."""
        artifact = self.line.artifact
        return {
            "depth": self.line.depth,
            "role": self.line.role,
            "id": artifact.id,
            "kind": artifact.kind,
            "repeated": self.line.repeated,
            "removed": artifact.removed_at is not None,
            "seconds": artifact.seconds,
            "figures": dict(self.figures),
            "places": [str(place) for place in self.places],
            "decision": None
            if self.decision is None
            else {"strategy": self.decision.strategy, "reason": self.decision.reason},
        }


def resolve_artifact(registry: Registry, text: str) -> str:
    """The identity of the artifact that `text` names.

    `text` is an identity or its beginning, `CAMPAIGN:ROLE` or `CAMPAIGN:ITERATION.ROLE`. Without an
    iteration, the last one that has the role is taken.

    **Raises:** LookupError if `text` names no artifact or several; the message lists candidates.
    """
    campaign, colon, place = text.rpartition(":")
    if not colon:
        try:
            return registry.find_artifact(text).id
        except LookupError as error:
            raise LookupError(
                f"{error.args[0]}; an identity, its beginning, or CAMPAIGN:ROLE such as "
                f"tiny:2.student names one"
            ) from error
    id = registry.campaign(campaign).id
    match = PLACE.fullmatch(place)
    iteration = int(match["iteration"]) if match and match["iteration"] else None
    role = match["role"] if match else ""
    measured = {(row.iteration, row.role): row.report.policy for row in registry.reports(id)}
    attached: dict[tuple[int, str], list[Artifact]] = {}
    for row in registry.artifacts(id):
        attached.setdefault((row.iteration, row.role), []).append(row.artifact)
    keys = sorted(
        key
        for key in attached.keys() | measured.keys()
        if key[1] == role and iteration in (None, key[0])
    )
    # A training run keeps several policies; the measured one is the iteration's.
    if chosen := [key for key in keys if key in measured]:
        return measured[chosen[-1]]
    if not keys:
        known = ", ".join(f"{index}.{name}" for index, name in sorted(attached))
        raise LookupError(f"{id} has no {place!r}; it has: {known or 'nothing yet'}")
    candidates = attached[keys[-1]]
    if len(candidates) > 1:
        described = "; ".join(
            " ".join([artifact.id, *describe_figures(figures(artifact))]) for artifact in candidates
        )
        raise LookupError(f"{text} names several artifacts: {described}; give one of them")
    return candidates[0].id


def lineage_lines(
    registry: Registry, artifact: str, descendants: bool = False
) -> list[LineageLine]:
    """The lines of an artifact's tree, top down. Raises LookupError for an unknown artifact."""
    lines = (registry.descendants(artifact) if descendants else registry.lineage(artifact)).lines
    ids = list(dict.fromkeys(line.artifact.id for line in lines))
    roles_of: dict[str, list[ArtifactRole]] = {}
    for role in registry.roles(ids):
        roles_of.setdefault(role.artifact, []).append(role)
    deciding = {
        role.campaign for roles in roles_of.values() for role in roles if role.role == "student"
    }
    decisions = {
        (id, iteration.index): iteration.decision
        for id, iterations in registry.iterations_of(sorted(deciding)).items()
        for iteration in iterations
    }
    scores = {id: _scores(registry, id) for id in ids if id.startswith("policy")}
    tree = []
    for line in lines:
        roles = tuple(roles_of.get(line.artifact.id, ()))
        decided = [
            decisions.pop((role.campaign, role.iteration), None)
            for role in roles
            if role.role == "student"
        ]
        shown = figures(line.artifact) | scores.get(line.artifact.id, {})
        first = next((decision for decision in decided if decision), None)
        tree.append(LineageLine(line, shown, roles, first))
    return tree


def figures(artifact: Artifact) -> dict[str, Any]:
    """Key figures of an artifact, by name: parts of its result, its training loss, its scores."""
    ref: Mapping[str, Any] = artifact.meta.get("ref") or {}
    shown = {name: ref[name] for name in WORDS if ref.get(name)}
    loss = artifact.spec.get("loss") or (artifact.spec.get("config") or {}).get("loss") or {}
    if "kind" in loss:
        shown["loss"] = loss["kind"]
    if trail := ref.get("trail"):
        shown["kept"] = [policy["step"] for policy in trail]
    if scores := ref.get("scores"):
        shown["scores"] = {benchmark: score["avg"] for benchmark, score in scores.items()}
    return shown


WORDS: Mapping[str, Callable[[Any], str]] = {
    "role": str,
    "step": "step {}".format,
    "name": str,
    "count": "{:,} problems".format,
    "sequences": "{:,} responses".format,
    "tokens": "{:,} tokens".format,
    "accuracy": lambda value: f"{percent(value)} % right",
    "explained_variance": lambda value: f"explained variance {nats(value)}",
    "loss": str,
    "kept": lambda steps: f"kept step{'s' if len(steps) > 1 else ''} {', '.join(map(str, steps))}",
    "scores": lambda scores: ", ".join(
        f"{benchmark} {percent(score)} %" for benchmark, score in scores.items()
    ),
}
"""Figure -> its text, in the order they are shown."""


def describe_figures(found: Mapping[str, Any]) -> list[str]:
    """The figures as text, in the order of `WORDS`."""
    return [words(found[name]) for name, words in WORDS.items() if name in found]


def _scores(registry: Registry, policy: str) -> dict[str, Any]:
    """A policy's score on each benchmark, as a share of 1.

    Of several measurements, the one with the most samples counts.
    """
    best = {
        name: max(measured, key=lambda score: score.k * score.problems)
        for name, measured in registry.scores(policy).items()
    }
    return {"scores": {name: score.avg for name, score in best.items()}} if best else {}
