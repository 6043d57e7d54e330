"""Fills a registry with many completed campaigns of one iteration, in the form that flows leave.

Rows are written in bulk: one by one they would take an hour.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from erpd_core.config import CampaignConfig
from erpd_core.refs import Decision, EvalReport, Score
from tasks.registry import Registry, database
from tasks.registry.tables import (
    ArtifactRow,
    Base,
    CampaignArtifactRow,
    CampaignRow,
    EdgeRow,
    IterationRow,
    ReportRow,
    ScoreRow,
)

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
AT_ONCE = 500
"""Campaigns written in one transaction."""
SHARED = ("policy-base", "problems-test")
"""Artifacts shared by all campaigns."""
PARENTS: dict[str, dict[str, str]] = {
    "rollouts": {"policy": "policy-base"},
    "column": {"policy": "policy-base", "rollouts": "rollouts"},
    "training-teacher": {"init": "policy-base", "rollouts": "rollouts", "old": "column"},
    "policy-teacher": {"training": "training-teacher"},
    "column-teacher": {"policy": "policy-teacher", "rollouts": "rollouts"},
    "training-student": {
        "init": "policy-base",
        "rollouts": "rollouts",
        "old": "column",
        "numerator-1": "column-teacher",
    },
    "policy-student": {"training": "training-student"},
    "evaluation-teacher": {"policy": "policy-teacher", "benchmark-test": "problems-test"},
    "evaluation-student": {"policy": "policy-student", "benchmark-test": "problems-test"},
}
"""Artifacts of one campaign, each with its parents by role: 9 artifacts, 17 edges."""
ATTACHED = {
    "rollouts": "rollouts",
    "policy-teacher": "teacher",
    "policy-student": "student",
    "evaluation-teacher": "teacher evaluation",
    "evaluation-student": "student evaluation",
}


def fill(url: str, count: int, config: CampaignConfig) -> None:
    """Write `count` campaigns with this config, each with its own seed."""
    Registry(url).close()  # creates the tables
    engine = database.connect(url)
    values = config.model_dump(mode="json")
    with database.writing(engine).begin() as connection:
        shared = [_artifact(name, FIRST) for name in SHARED]
        connection.execute(sa.insert(ArtifactRow), shared)
    for start in range(0, count, AT_ONCE):
        with database.writing(engine).begin() as connection:
            rows: dict[type[Base], list[dict[str, Any]]] = {}
            for number in range(start, min(count, start + AT_ONCE)):
                for table, row in _campaign(number, values):
                    rows.setdefault(table, []).append(row)
            for table, table_rows in rows.items():
                connection.execute(sa.insert(table), table_rows)
    engine.dispose()


def _campaign(number: int, config: dict[str, Any]) -> Iterator[tuple[type[Base], dict[str, Any]]]:
    """Yield (table, row) for every row of one campaign."""
    id, began = f"load-{number:06d}", FIRST + timedelta(minutes=number)
    names = {
        name: f"{name.partition('-')[0]}-{number:06d}{name.partition('-')[2]}" for name in PARENTS
    }
    ended = {
        "created_at": began,
        "finished_at": began + timedelta(seconds=30),
        "forgotten_at": None,
    }
    yield (
        CampaignRow,
        {
            "id": id,
            "name": id,
            "recipe": "tiny",
            "config": {**config, "seed": number},
            "status": "completed",
            "git_commit": None,
            **ended,
        },
    )
    for name in PARENTS:
        yield ArtifactRow, _artifact(names[name], began)
    for child, parents in PARENTS.items():
        for role, parent in parents.items():
            yield (
                EdgeRow,
                {"child": names[child], "parent": names.get(parent, parent), "role": role},
            )
    decision = Decision(
        strategy="S1", reason="the teacher is better", evidence={"gain": 0.1}, alternatives={}
    )
    iteration = {
        "campaign_id": id,
        "index": 1,
        "status": "completed",
        "strategy": "S1",
        "seconds": {"teacher": 4.0, "distill": 2.0},
    }
    yield IterationRow, {**iteration, "decision": decision.model_dump(mode="json")}
    for role, policy in (
        ("base", "policy-base"),
        ("teacher", names["policy-teacher"]),
        ("student", names["policy-student"]),
    ):
        score = Score(avg=0.5, k=4, problems=32, ci95=(0.4, 0.6))
        report = EvalReport(
            policy=policy, scores={"test": score}, kl_old=0.1, kl_base=0.1, entropy=1.5, length=12.0
        )
        place = {"campaign_id": id, "iteration": 0 if role == "base" else 1, "role": role}
        yield ReportRow, {**place, "policy": policy, "report": report.model_dump(mode="json")}
        if role == "base":
            yield CampaignArtifactRow, {**place, "artifact_id": policy}
        else:
            yield (
                ScoreRow,
                {
                    "policy": policy,
                    "benchmark": "test",
                    "k": 4,
                    "problems": 32,
                    "avg": 0.5,
                    "lo": 0.4,
                    "hi": 0.6,
                },
            )
    for name, role in ATTACHED.items():
        yield (
            CampaignArtifactRow,
            {"campaign_id": id, "iteration": 1, "role": role, "artifact_id": names[name]},
        )


def _artifact(id: str, created: datetime) -> dict[str, Any]:
    kind = id.partition("-")[0]
    role = (
        {"role": "student" if id.endswith("student") else "teacher", "step": 16}
        if kind == "policy"
        else {}
    )
    meta = {"ref": {"id": id, **role}, "engine": "hf", "device": "cpu"}
    row = {
        "id": id,
        "kind": kind,
        "spec": {"sampling": {"samples": 8, "temperature": 1.0}, "seed": 7},
        "meta": meta,
    }
    return {**row, "created_at": created, "seconds": 2.0, "removed_at": None}
