"""Relates a student's KL from the base to its batch's gain and to the cost of an entropy bonus.

    python -m scripts.evidence.drift

Claims 9, 11 and 13 rest on it. `BOUND` was chosen from seeds 0 to 7 of the studies in `FOUND`.
`TRIED` are studies with other schedules, whose records were not used to choose it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence

from scripts.evidence.record import RECORDS, Policy, Record, read_records

FOUND, TRIED = ("iterating", "switching"), ("earlier", "stalled")
BOUND = 0.11
"""KL(student || base), k1, in nats per token."""
LATE = 3
"""First of the later batches. Every student of an earlier batch ends within `BOUND` and gains."""


def late_gains(record: Record, arm: str) -> Iterator[tuple[Policy, float]]:
    """Yield each student of a later batch with its gain over the student before it, in points.

    Yields nothing for an arm without distillation.
    """
    students = {
        policy.iteration: policy
        for policy in record.arms[arm].policies
        if policy.role == "student" and policy.strategy != "none"
    }
    for iteration, student in students.items():
        if iteration >= LATE and iteration - 1 in students:
            yield student, 100 * (student.score - students[iteration - 1].score)


def by_distance(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """Summarize the gains of students within `BOUND` and beyond it.

    A student shared by arms or studies counts once.

    **Returns:** For `within` and `beyond`: the number of `students`, how many `gained`, and their
        mean gain in `points`.
    **Raises:** statistics.StatisticsError if there are none within, or none beyond.
    """
    gains = {
        (record.seed, student.kl_base): gain
        for record in records
        for arm in record.arms
        for student, gain in late_gains(record, arm)
    }
    within = [gain for (_, kl), gain in gains.items() if kl <= BOUND]
    beyond = [gain for (_, kl), gain in gains.items() if kl > BOUND]
    return {"within": _summary(within), "beyond": _summary(beyond)}


def _summary(gains: Sequence[float]) -> dict[str, float]:
    return {
        "students": len(gains),
        "gained": sum(gain > 0 for gain in gains),
        "points": round(statistics.fmean(gains), 1),
    }


def side_by_side(record: Record, arm: str, other: str) -> list[tuple[Policy, Policy]]:
    """Return pairs of the students of two arms, batch by batch."""
    return [
        (student, record.arms[other].policy("student", student.iteration))
        for student in record.arms[arm].policies
        if student.role == "student"
    ]


def cost_follows_drift(records: Iterable[Record], arm: str, other: str) -> float:
    """Return the correlation, over seeds, of score differences with log ratios of KL.

    Both compare the last student of `arm` with the last student of `other`: the difference of their
    scores, and the logarithm of the ratio of their KL from the base.

    **Raises:** statistics.StatisticsError for fewer than two seeds, or if they do not differ.
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
                by_distance(record for study in studies for record in read_records(RECORDS, study))
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
