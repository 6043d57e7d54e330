"""A report's lines on data: its origin and its overlap with the benchmarks."""

from __future__ import annotations

from datetime import datetime

from erpd_core.refs import Overlap, ProblemsRef
from flows.reports.campaign import data_lines
from tasks.registry.values import Artifact, Attached


def attached(
    iteration: int, role: str, ref: ProblemsRef | None, kind: str = "problems"
) -> Attached:
    meta = {"ref": ref.model_dump(mode="json")} if ref else {}
    artifact = Artifact(
        id=f"{kind}-{role}",
        kind=kind,
        spec={},
        meta=meta,
        created_at=datetime(2026, 1, 1),
        seconds=None,
    )
    return Attached(iteration=iteration, role=role, artifact=artifact)


def test_the_report_says_where_data_came_from_and_what_it_shares():
    overlap = Overlap(
        action="drop", checked=160, exact=10, ngram=1, benchmarks={"validation": 0, "test": 11}
    )
    lines = data_lines(
        [
            attached(0, "test", ProblemsRef(id="a", name="test", count=30, origin="a/b@12")),
            attached(
                1,
                "prompts",
                ProblemsRef(id="b", name="prompts", count=48, origin="c/d@34", overlap=overlap),
            ),
            attached(
                2,
                "prompts",
                ProblemsRef(
                    id="c",
                    name="prompts",
                    count=48,
                    overlap=overlap.model_copy(update={"action": "report"}),
                ),
            ),
            attached(2, "plain", ProblemsRef(id="d", name="plain", count=48)),
            attached(2, "older", None),
            attached(2, "rollouts", None, kind="rollouts"),
        ]
    )
    assert lines == [
        "test: 30 problems, from a/b@12",
        "prompts of iteration 1: 48 problems, from c/d@34; 11 of 160 overlap with "
        "validation or benchmarks (test 11), left out",
        "prompts of iteration 2: 48 problems, 11 of 160 overlap with validation or benchmarks "
        "(test 11)",
    ]
