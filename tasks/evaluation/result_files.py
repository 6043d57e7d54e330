"""What lies beside the report of an evaluation in the store: more measures of each benchmark, each
problem, and the judge's part.

Nothing here imports torch, so that pages and tables read it quickly.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from erpd_core.evaluation_details import BenchmarkDetails, ProblemResult
from erpd_core.refs import JudgedRef
from tasks.store import Store

DETAILS, RESULTS, JUDGED = "details.json", "problems.jsonl", "judge.json"


def lines(results: Iterable[ProblemResult]) -> str:
    """JSON lines."""
    return "".join(one.model_dump_json() + "\n" for one in results)


def load_details(store: Store, evaluation: str) -> dict[str, BenchmarkDetails]:
    """Benchmark -> more measures, of the evaluation with this id."""
    tree = json.loads((store.path(evaluation) / DETAILS).read_text())
    return {name: BenchmarkDetails.model_validate(one) for name, one in tree.items()}


def load_judged(store: Store, evaluation: str) -> dict[str, JudgedRef]:
    """Benchmark -> what the judge said; empty where none was asked."""
    path = store.path(evaluation) / JUDGED
    return (
        {name: JudgedRef.model_validate(one) for name, one in json.loads(path.read_text()).items()}
        if path.exists()
        else {}
    )


def load_results(store: Store, evaluation: str) -> list[ProblemResult]:
    """What came of each problem, benchmark after benchmark."""
    with (store.path(evaluation) / RESULTS).open(encoding="utf-8") as file:
        return [ProblemResult.model_validate_json(line) for line in file]
