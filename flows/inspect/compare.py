"""`erpd compare A B`: two campaigns, their configs, their scores and their last students."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from erpd_core.config.flat import flatten
from erpd_core.intervals import mean_difference
from flows.inspect.evaluate_models import compare_results
from flows.reports.evaluation_details import evaluation_of
from flows.reports.results import ORDER, PolicyRow, benchmarks_of, last_student, table_rows
from tasks.evaluation.result_files import load_results
from tasks.registry import CampaignRecord, Registry
from tasks.store import Store

ABSENT = "absent"
"""Placeholder for the value of a key that a config does not have."""


@dataclass(frozen=True)
class Pair:
    """The same policy of two campaigns: their bases, or an iteration's teachers or students.

    **Example:** `Pair("student 1", PolicyRow(1, "student", ...), None)`
    """

    name: str
    a: PolicyRow | None
    b: PolicyRow | None


@dataclass(frozen=True)
class Difference:
    """Score of A's last student minus that of B's on a benchmark, as a share of 1.

    **Example:** `Difference("test", 0.05, (-0.01, 0.11), paired={"p_value": 0.12, "problems": 200,
    ...})`
    """

    benchmark: str
    difference: float
    ci95: tuple[float, float]
    paired: Mapping[str, Any] | None
    """Comparison by problem (`flows.inspect.evaluate_models.compare_results`), if possible."""
    why_not: str = ""
    """Why there is no paired comparison, so that the two scores are taken as independent."""


@dataclass(frozen=True)
class CampaignPair:
    """A comparison of two campaigns."""

    a: CampaignRecord
    b: CampaignRecord
    config: Mapping[str, tuple[Any, Any]]
    """Dotted key -> its two values, for keys whose values differ."""
    pairs: tuple[Pair, ...]
    students: tuple[PolicyRow | None, PolicyRow | None]
    """The last student of each."""
    differences: tuple[Difference, ...]

    def tree(self) -> dict[str, Any]:
        """As JSON."""

        def report(row: PolicyRow | None) -> dict[str, Any] | None:
            return row.report.model_dump(mode="json") if row else None

        return {
            "a": self.a.id,
            "b": self.b.id,
            "config": {key: {"a": a, "b": b} for key, (a, b) in self.config.items()},
            "policies": [
                {"name": pair.name, "a": report(pair.a), "b": report(pair.b)} for pair in self.pairs
            ],
            "last_students": {
                "a": self.students[0].name if self.students[0] else None,
                "b": self.students[1].name if self.students[1] else None,
                "a_minus_b": {
                    difference.benchmark: {
                        "difference": difference.difference,
                        "ci95": list(difference.ci95),
                        "paired": difference.paired is not None,
                        **(
                            {
                                "p_value": difference.paired["p_value"],
                                "problems": difference.paired["problems"],
                            }
                            if difference.paired
                            else {"why": difference.why_not}
                        ),
                    }
                    for difference in self.differences
                },
            },
        }


def compare_campaigns(registry: Registry, store: Store, a: str, b: str) -> CampaignPair:
    """Compare two campaigns.

    **Arguments:**
        a: Id or name of a campaign, or the beginning of either.
        b: The same for the other campaign.
    **Raises:** LookupError for an unknown campaign.
    """
    first, second = registry.campaign(a), registry.campaign(b)
    rows = [table_rows(registry, campaign.id) for campaign in (first, second)]
    students = (last_student(rows[0]), last_student(rows[1]))
    differences = tuple(
        _differences(registry, store, (first.id, students[0]), (second.id, students[1]))
    )
    return CampaignPair(
        first,
        second,
        config_differences(first.config, second.config),
        _pairs(*rows),
        students,
        differences,
    )


def config_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> the two values, for keys whose values differ.

    The value is `ABSENT` where a config has no such key, for example a setting of another loss.
    """
    flat_a, flat_b = flatten(a), flatten(b)
    values = {key: (flat_a.get(key, ABSENT), flat_b.get(key, ABSENT)) for key in flat_a | flat_b}
    return {key: (left, right) for key, (left, right) in values.items() if left != right}


def _pairs(a: list[PolicyRow], b: list[PolicyRow]) -> tuple[Pair, ...]:
    places = {
        (row.iteration, ORDER.get(row.role, len(ORDER)), row.role): row.name for row in (*a, *b)
    }
    by_role = [{(row.iteration, row.role): row for row in rows} for rows in (a, b)]
    return tuple(
        Pair(places[place], *(rows.get((place[0], place[2])) for rows in by_role))
        for place in sorted(places)
    )


Student = tuple[str, PolicyRow | None]
"""Campaign id and the row of its last student."""


def _differences(registry: Registry, store: Store, a: Student, b: Student) -> Iterator[Difference]:
    if a[1] is None or b[1] is None:
        return
    evaluations = [
        evaluation_of(row, registry.artifacts(campaign), store) for campaign, row in (a, b) if row
    ]
    for benchmark in benchmarks_of([a[1]]):
        if benchmark not in b[1].report.scores:
            continue
        paired, why_not = _paired(store, evaluations[0], evaluations[1], benchmark)
        if paired:
            yield Difference(benchmark, paired["difference"], tuple(paired["ci95"]), paired)
            continue
        scores = (a[1].report.scores[benchmark], b[1].report.scores[benchmark])
        difference, interval = mean_difference([scores])
        yield Difference(benchmark, difference, interval, None, why_not)


def _paired(
    store: Store, a: str | None, b: str | None, benchmark: str
) -> tuple[dict[str, Any] | None, str]:
    """The paired comparison on a benchmark, or None and the reason."""
    if a is None or b is None:
        return None, "the results per problem are no longer in the store"
    problems = [
        store.manifest(evaluation).inputs.get(f"benchmark-{benchmark}") for evaluation in (a, b)
    ]
    if problems[0] is None or problems[0] != problems[1]:
        return None, "they were measured on different problems"
    results = [
        [result for result in load_results(store, evaluation) if result.benchmark == benchmark]
        for evaluation in (a, b)
    ]
    return compare_results(*results)[benchmark], ""
