"""`erpd lineage`: what an artifact was made from, or what came of it, with the figures that tell
artifacts apart.
"""

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
    """A line of the tree, with what is known of its artifact.

    Example: `LineageLine(line, figures={"role": "student", "step": 16, "scores": {"test": 0.65}},
    places=(Place(...),), decision=Decision(...))`
    """

    line: Line
    figures: Mapping[str, Any]
    places: tuple[ArtifactRole, ...]
    """Where it plays a role."""
    decision: Decision | None = None
    """What was decided in the iteration that it is the student of; said once, at the first line
    that is.
    """

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
    """The artifact that `text` names: an identity or its beginning, `CAMPAIGN:ROLE` or
    `CAMPAIGN:ITERATION.ROLE`.

    Without an iteration it is the last one that has the role.

    **Raises:** LookupError: none, or several; the message says which there are.
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
    asked = PLACE.fullmatch(place)
    iteration = int(asked["iteration"]) if asked and asked["iteration"] else None
    role = asked["role"] if asked else ""
    measured = {(one.iteration, one.role): one.report.policy for one in registry.reports(id)}
    attached: dict[tuple[int, str], list[Artifact]] = {}
    for one in registry.artifacts(id):
        attached.setdefault((one.iteration, one.role), []).append(one.artifact)
    there = sorted(
        key
        for key in attached.keys() | measured.keys()
        if key[1] == role and iteration in (None, key[0])
    )
    # of all the policies that a training kept, the one that counts
    if chosen := [key for key in there if key in measured]:
        return measured[chosen[-1]]
    if not there:
        known = ", ".join(f"{index}.{name}" for index, name in sorted(attached))
        raise LookupError(f"{id} has no {place!r}; it has: {known or 'nothing yet'}")
    found = attached[there[-1]]
    if len(found) > 1:
        some = "; ".join(
            " ".join([artifact.id, *describe_figures(figures(artifact))]) for artifact in found
        )
        raise LookupError(f"{text} is several artifacts: {some}; give one of them")
    return found[0].id


def lineage_lines(
    registry: Registry, artifact: str, descendants: bool = False
) -> list[LineageLine]:
    """The tree, top down. **Raises:** LookupError: there is no such artifact."""
    lines = (registry.descendants(artifact) if descendants else registry.lineage(artifact)).lines
    ids = list(dict.fromkeys(line.artifact.id for line in lines))
    places: dict[str, list[ArtifactRole]] = {}
    for place in registry.places(ids):
        places.setdefault(place.artifact, []).append(place)
    deciding = {
        place.campaign for some in places.values() for place in some if place.role == "student"
    }
    decisions = {
        (id, one.index): one.decision
        for id, some in registry.iterations_of(sorted(deciding)).items()
        for one in some
    }
    scores = {id: _scores(registry, id) for id in ids if id.startswith("policy")}
    found = []
    for line in lines:
        mine = tuple(places.get(line.artifact.id, ()))
        decided = [
            decisions.pop((place.campaign, place.iteration), None)
            for place in mine
            if place.role == "student"
        ]
        shown = figures(line.artifact) | scores.get(line.artifact.id, {})
        found.append(LineageLine(line, shown, mine, next((one for one in decided if one), None)))
    return found


def figures(artifact: Artifact) -> dict[str, Any]:
    """What tells an artifact apart, by name: what of its answer is shown, the loss it was
    trained with, the scores it found.
    """
    ref: Mapping[str, Any] = artifact.meta.get("ref") or {}
    found = {name: ref[name] for name in WORDS if ref.get(name)}
    loss = artifact.spec.get("loss") or (artifact.spec.get("config") or {}).get("loss") or {}
    if "kind" in loss:
        found["loss"] = loss["kind"]
    if trail := ref.get("trail"):
        found["kept"] = [policy["step"] for policy in trail]
    if scores := ref.get("scores"):
        found["scores"] = {benchmark: score["avg"] for benchmark, score in scores.items()}
    return found


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
"""Figures in words, in the order they are shown."""


def describe_figures(found: Mapping[str, Any]) -> list[str]:
    return [words(found[name]) for name, words in WORDS.items() if name in found]


def _scores(registry: Registry, policy: str) -> dict[str, Any]:
    """A policy's score on each benchmark; where it was measured several times, by the most
    samples.
    """
    best = {
        name: max(some, key=lambda score: score.k * score.problems)
        for name, some in registry.scores(policy).items()
    }
    return {"scores": {name: score.avg for name, score in best.items()}} if best else {}
