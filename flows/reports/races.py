"""Races in the report: who took part, with how many samples, and who left when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erpd_core.refs import RaceRef
from tasks.registry import Attached

ENDING = " race"


@dataclass(frozen=True)
class ReportedRace:
    """A race of a campaign."""

    iteration: int
    role: str
    """The role that the winner was chosen for: teacher, student, online."""
    race: RaceRef


def races_of(attached: Sequence[Attached]) -> list[ReportedRace]:
    """All races of a campaign, in the order in which they ended."""
    return [
        ReportedRace(
            row.iteration,
            row.role.removesuffix(ENDING),
            RaceRef.model_validate(row.artifact.meta["ref"]),
        )
        for row in attached
        if row.artifact.kind == "race" and row.artifact.meta.get("ref")
    ]


def samples_saved(races: Sequence[ReportedRace]) -> str:
    """A sentence on the samples that races did not need; empty if there was no race."""
    if not races:
        return ""
    full = sum(each.race.full * len(each.race.contestants) * each.race.problems for each in races)
    spent = sum(each.race.spent * each.race.problems for each in races)
    return (
        f"The {len(races)} race{'s' if len(races) > 1 else ''} took {spent:,} samples, "
        f"{1 - spent / full:.0%} fewer than the {full:,} of a full selection."
    )


def race_scores(attached: Sequence[Attached], iteration: int, role: str) -> dict[int, float]:
    """Step -> average score in the race of a role, as a share of 1; empty without a race."""
    return {
        contestant.policy.step: contestant.avg
        for each in races_of(attached)
        if (each.iteration, each.role) == (iteration, role)
        for contestant in each.race.contestants
    }
