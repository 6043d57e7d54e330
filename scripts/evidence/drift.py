"""What goes with how far from the base a student ends: whether its batch added to its score, and
what an entropy bonus cost it. Behind claims 9, 11 and 13.

    python -m scripts.evidence.drift

`BOUND` was read off `FOUND`, seeds 0 to 7. `TRIED` are studies of other schedules, whose records
were not used for it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence

from scripts.evidence.record import RECORDS, Policy, Record, read_records

FOUND, TRIED = ("iterating", "switching"), ("earlier", "stalled")
BOUND = 0.11
"""KL from the base, k1 in nats per token."""
LATE = 3
"""The first of the later batches: every student of an earlier one ends within `BOUND`, and
gains.
"""


def late_gains(record: Record, arm: str) -> Iterator[tuple[Policy, float]]:
    """Each student of a later batch with the points that it scores over the student before it;
    nothing of an arm without distillation.
    """
    students = {
        one.iteration: one
        for one in record.arms[arm].policies
        if one.role == "student" and one.strategy != "none"
    }
    for iteration, one in students.items():
        if iteration >= LATE and iteration - 1 in students:
            yield one, 100 * (one.score - students[iteration - 1].score)


def by_distance(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """Students within `BOUND` and beyond it: how many, how many of them gained, and by how many
    points on average.

    A student that arms or studies share counts once. **Raises:** statistics.StatisticsError: none
    within, or none beyond.
    """
    found = {
        (record.seed, one.kl_base): gain
        for record in records
        for arm in record.arms
        for one, gain in late_gains(record, arm)
    }
    within = [gain for (_, kl), gain in found.items() if kl <= BOUND]
    beyond = [gain for (_, kl), gain in found.items() if kl > BOUND]
    return {"within": _summary(within), "beyond": _summary(beyond)}


def _summary(gains: Sequence[float]) -> dict[str, float]:
    return {
        "students": len(gains),
        "gained": sum(gain > 0 for gain in gains),
        "points": round(statistics.fmean(gains), 1),
    }


def side_by_side(record: Record, arm: str, other: str) -> list[tuple[Policy, Policy]]:
    """The students of two arms, batch by batch."""
    return [
        (one, record.arms[other].policy("student", one.iteration))
        for one in record.arms[arm].policies
        if one.role == "student"
    ]


def cost_follows_drift(records: Iterable[Record], arm: str, other: str) -> float:
    """Over seeds, after the last batch: the correlation of `arm`'s score over `other`'s with the
    logarithm of its KL over `other`'s.

    **Raises:** statistics.StatisticsError: fewer than two seeds, or nothing that differs between
    them.
    """
    last = [side_by_side(record, arm, other)[-1] for record in records]
    return statistics.correlation(
        [math.log(ours.kl_base / theirs.kl_base) for ours, theirs in last],
        [ours.score - theirs.score for ours, theirs in last],
    )


def main() -> None:
    for studies in (FOUND, TRIED):
        print(
            " and ".join(studies),
            json.dumps(
                by_distance(one for study in studies for one in read_records(RECORDS, study))
            ),
        )
    print(
        "entropy",
        json.dumps(
            {
                "correlation": round(
                    cost_follows_drift(read_records(RECORDS, "entropy"), "bonus-0.05", "plain"), 2
                )
            }
        ),
    )


if __name__ == "__main__":
    main()
