"""What is known of a campaign's policies beyond their scores: more measures of each benchmark. Read from the store; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erpd_core.details import BenchmarkDetails
from flows.results import Row
from tasks.evaluations import load_details, load_judged
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


def measures(rows: Sequence[Row], attached: Sequence[Attached], store: Store) -> list[Measures]:
    """Those of every row whose evaluation is still in the store."""
    found = []
    for row in rows:
        of_row = (one for one in attached if (one.iteration, one.role) == (row.iteration, f"{row.role} evaluation"))
        mine = next((one.artifact.id for one in of_row if (one.artifact.meta.get("ref") or {}).get("policy") == row.report.policy), None)
        if mine is None or not store.has(mine):
            continue
        judged = load_judged(store, mine)
        for benchmark, details in load_details(store, mine).items():
            turned = judged[benchmark].outcomes.get("same", 0) if benchmark in judged else None
            found.append(Measures(row.name, benchmark, row.report.scores[benchmark].k, details, turned))
    return found
