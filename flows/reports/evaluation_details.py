"""Additional measures of a campaign's policies on each benchmark, read from the store.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erpd_core.evaluation_details import BenchmarkDetails
from flows.reports.results import PolicyRow
from tasks.evaluation.result_files import load_details, load_judged
from tasks.registry import Attached
from tasks.store import Store


@dataclass(frozen=True)
class Measures:
    """Additional measures of one policy on one benchmark."""

    policy: str
    benchmark: str
    k: int
    """Samples per problem."""
    details: BenchmarkDetails
    turned: int | None
    """Number of responses that a judge changed to correct; None without a judge."""


def measures(
    rows: Sequence[PolicyRow], attached: Sequence[Attached], store: Store
) -> list[Measures]:
    """The measures of every row whose evaluation is still in the store."""
    table = []
    for row in rows:
        evaluation = evaluation_of(row, attached, store)
        if evaluation is None:
            continue
        judged = load_judged(store, evaluation)
        for benchmark, details in load_details(store, evaluation).items():
            turned = judged[benchmark].outcomes.get("same", 0) if benchmark in judged else None
            table.append(
                Measures(row.name, benchmark, row.report.scores[benchmark].k, details, turned)
            )
    return table


def evaluation_of(row: PolicyRow, attached: Sequence[Attached], store: Store) -> str | None:
    """The id of a row's evaluation; None if it is no longer in the store."""
    of_row = (
        place.artifact
        for place in attached
        if (place.iteration, place.role) == (row.iteration, f"{row.role} evaluation")
    )
    evaluation = next(
        (
            artifact.id
            for artifact in of_row
            if (artifact.meta.get("ref") or {}).get("policy") == row.report.policy
        ),
        None,
    )
    return evaluation if evaluation is not None and store.has(evaluation) else None
