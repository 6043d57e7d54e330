"""Further files of an evaluation's artifact: measures of each benchmark, problems, the judge.

This module does not import torch, so that pages and tables can read the files quickly.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from erpd_core.evaluation_details import BenchmarkDetails, ProblemResult
from erpd_core.refs import JudgedRef
from tasks.store import Store

DETAILS, RESULTS, JUDGED = "details.json", "problems.jsonl", "judge.json"


def lines(results: Iterable[ProblemResult]) -> str:
    """The results as JSON lines."""
    return "".join(result.model_dump_json() + "\n" for result in results)


def load_details(store: Store, evaluation: str) -> dict[str, BenchmarkDetails]:
    """Benchmark -> further measures, for the evaluation with this id."""
    tree = json.loads((store.path(evaluation) / DETAILS).read_text())
    return {name: BenchmarkDetails.model_validate(entry) for name, entry in tree.items()}


def load_judged(store: Store, evaluation: str) -> dict[str, JudgedRef]:
    """Benchmark -> the judge's results; empty if the evaluation had no judge."""
    path = store.path(evaluation) / JUDGED
    if not path.exists():
        return {}
    tree = json.loads(path.read_text())
    return {name: JudgedRef.model_validate(entry) for name, entry in tree.items()}


def load_results(store: Store, evaluation: str) -> list[ProblemResult]:
    """The result of each problem, benchmark after benchmark."""
    with (store.path(evaluation) / RESULTS).open(encoding="utf-8") as file:
        return [ProblemResult.model_validate_json(line) for line in file]
