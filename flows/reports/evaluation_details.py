"""What is known of a campaign's policies beyond their scores: more measures of each benchmark.
Read from the store; no torch.
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
    """One policy on one benchmark."""

    policy: str
    benchmark: str
    k: int
    """Samples a problem."""
    details: BenchmarkDetails
    turned: int | None
    """Responses that a judge turned to correct; None where none was asked."""


def measures(
    rows: Sequence[PolicyRow], attached: Sequence[Attached], store: Store
) -> list[Measures]:
    """Those of every row whose evaluation is still in the store."""
    found = []
    for row in rows:
        mine = evaluation_of(row, attached, store)
        if mine is None:
            continue
        judged = load_judged(store, mine)
        for benchmark, details in load_details(store, mine).items():
            turned = judged[benchmark].outcomes.get("same", 0) if benchmark in judged else None
            found.append(
                Measures(row.name, benchmark, row.report.scores[benchmark].k, details, turned)
            )
    return found


def evaluation_of(row: PolicyRow, attached: Sequence[Attached], store: Store) -> str | None:
    """The evaluation that a row's report is of; None when it is not in the store any more."""
    of_row = (
        one.artifact
        for one in attached
        if (one.iteration, one.role) == (row.iteration, f"{row.role} evaluation")
    )
    mine = next(
        (
            artifact.id
            for artifact in of_row
            if (artifact.meta.get("ref") or {}).get("policy") == row.report.policy
        ),
        None,
    )
    return mine if mine is not None and store.has(mine) else None
