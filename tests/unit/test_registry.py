"""The registry on real databases: SQLite and PostgreSQL.

PostgreSQL is tested if it is installed or ERPD_TEST_POSTGRES names a server.
"""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from erpd_core.refs import Decision, EvalReport, Score
from tasks.registry import Registry, database
from tasks.registry.tables import ArtifactRow, Base, EdgeRow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(registry_url: str) -> str:
    """The URL of an empty database, once of each kind."""
    return registry_url


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    registry = Registry(url)
    yield registry
    registry.close()


def count(url: str) -> dict[str, int]:
    """The number of rows in every table."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        rows = {
            table.name: connection.execute(
                sa.select(sa.func.count()).select_from(table)
            ).scalar_one()
            for table in Base.metadata.sorted_tables
        }
    engine.dispose()
    return rows


def report(policy: str, avg: float = 0.5, kl: float = 0.25) -> EvalReport:
    score = Score(avg=avg, k=4, problems=32, ci95=(avg - 0.1, avg + 0.1))
    return EvalReport(
        policy=policy, scores={"tiny-test": score}, kl_old=kl, kl_base=kl, entropy=1.5, length=12.0
    )


DECISION = Decision(
    strategy="S1",
    reason="the teacher is better",
    evidence={"gain": 0.125},
    alternatives={"S2": "no weak teacher"},
)


def one_iteration(registry: Registry) -> None:
    """Record an iteration as a campaign does.

    base -> rollouts (with problems) -> column, teacher -> signal -> student.
    """
    registry.campaign_started(
        "c-1",
        "demo",
        "quickstart",
        {"seed": 0, "teacher": {"loss": {"kind": "sapo"}}},
        git_commit="abc",
    )
    registry.record_artifact("base", "policy", {"name": "tiny"})
    registry.record_artifact("problems", "problems", {"kind": "tiny"}, meta={"count": 8})
    registry.record_artifact(
        "rollouts",
        "rollouts",
        {"samples": 4},
        {"policy": "base", "problems": "problems"},
        {"tokens": 99},
        seconds=2.0,
    )
    registry.record_artifact("lp-old", "column", {}, {"policy": "base", "rollouts": "rollouts"})
    registry.record_artifact(
        "teacher",
        "policy",
        {"step": 40},
        [("init", "base"), ("rollouts", "rollouts"), ("loss-old", "lp-old")],
    )
    registry.record_artifact(
        "lp-teacher", "column", {}, {"policy": "teacher", "rollouts": "rollouts"}
    )
    registry.record_artifact(
        "signal",
        "signal",
        {"whiten": "shift"},
        {"numerator": "lp-teacher", "denominator": "lp-old"},
    )
    registry.record_artifact(
        "student",
        "policy",
        {"step": 10},
        {"init": "base", "signal": "signal", "rollouts": "rollouts"},
    )
    registry.attach("c-1", 0, "base", "base")
    registry.attach("c-1", 1, "teacher", "teacher")
    registry.attach("c-1", 1, "student", "student")
    registry.record_report("c-1", None, "base", report("base", 0.25, 0.0))
    registry.record_report("c-1", 1, "teacher", report("teacher", 0.75))
    registry.record_report("c-1", 1, "student", report("student", 0.7))
    registry.record_decision("c-1", 1, DECISION, {"teacher": 3.0})


def test_saying_everything_twice_changes_nothing(registry: Registry, url: str):
    one_iteration(registry)
    before, created = count(url), registry.artifact("rollouts").created_at
    assert before == {
        **{"campaigns": 1, "iterations": 1, "artifacts": 8, "edges": 14},
        **{"campaign_artifacts": 3, "reports": 3, "scores": 3},
    }
    one_iteration(registry)
    registry.record_artifact(
        "rollouts", "rollouts", {"samples": 4}, {"policy": "base", "problems": "problems"}
    )

    assert count(url) == before
    rollouts = registry.artifact("rollouts")
    assert (rollouts.created_at, rollouts.seconds, rollouts.meta) == (created, 2.0, {"tokens": 99})


def test_a_campaign_runs_ends_and_is_resumed(registry: Registry):
    registry.campaign_started("c-1", "demo", "quickstart", {"seed": 0}, git_commit="abc")
    started = registry.campaign("c-1")
    assert (started.status, started.finished_at, started.config, started.git_commit) == (
        "running",
        None,
        {"seed": 0},
        "abc",
    )
    assert abs((datetime.now(UTC) - started.created_at).total_seconds()) < 60

    registry.campaign_finished("c-1", "failed")
    failed = registry.campaign("c-1")
    assert (
        failed.status == "failed"
        and failed.finished_at is not None
        and failed.finished_at >= started.created_at
    )

    registry.campaign_started("c-1", "demo", "quickstart", {"seed": 0})
    assert registry.campaign("c-1") == started
    registry.campaign_finished("c-1")
    assert registry.campaign("c-1").status == "completed"


def test_a_resumed_iteration_keeps_the_seconds_of_phases_it_skipped(registry: Registry):
    registry.campaign_started("c-1", "demo", "quickstart", {})
    registry.iteration("c-1", 1, "running", {"rollouts": 5.0})
    registry.record_decision("c-1", 1, DECISION, {"teacher": 3.0})
    registry.iteration("c-1", 1, "completed", {"distill": 2.0})
    (iteration,) = registry.iterations("c-1")
    assert iteration.decision == DECISION and iteration.status == "completed"
    assert iteration.seconds == {"rollouts": 5.0, "teacher": 3.0, "distill": 2.0}


def test_reports_come_back_as_they_were_and_the_last_one_counts(registry: Registry):
    one_iteration(registry)
    assert [(row.iteration, row.role) for row in registry.reports("c-1")] == [
        (0, "base"),
        (1, "student"),
        (1, "teacher"),
    ]
    assert registry.reports("c-1")[1].report == report("student", 0.7)

    again = report("student", 0.9, kl=math.inf).model_copy(update={"entropy": math.nan})
    registry.record_report("c-1", 1, "student", again)
    read = registry.reports("c-1")[1].report
    assert (
        read.scores["tiny-test"].avg == 0.9 and read.kl_old == math.inf and math.isnan(read.entropy)
    )
    assert registry.scores("student") == {"tiny-test": [again.scores["tiny-test"]]}

    single = Score(avg=0.5, k=1, problems=32, ci95=(0.4, 0.6))
    registry.record_report(
        "c-1", 2, "student", again.model_copy(update={"scores": {"tiny-test": single}})
    )
    assert [score.k for score in registry.scores("student")["tiny-test"]] == [1, 4]


def test_the_registry_says_what_produced_a_student_and_what_came_of_it(registry: Registry):
    one_iteration(registry)
    made_from = registry.lineage("student")
    assert made_from.ids == {
        "student",
        "base",
        "problems",
        "rollouts",
        "lp-old",
        "teacher",
        "lp-teacher",
        "signal",
    }
    assert [(line.depth, line.role, line.artifact.id) for line in made_from.lines[:5]] == [
        (0, None, "student"),
        (1, "init", "base"),
        (1, "rollouts", "rollouts"),
        (2, "policy", "base"),
        (2, "problems", "problems"),
    ]
    assert len(made_from.lines) == 1 + 14  # the root, and every edge once
    assert [line.artifact.id for line in made_from.lines if line.repeated] == [
        "rollouts",
        "lp-old",
        "rollouts",
        "rollouts",
    ]

    derived = registry.descendants("teacher")
    assert [(line.depth, line.role, line.artifact.id) for line in derived.lines] == [
        (0, None, "teacher"),
        (1, "policy", "lp-teacher"),
        (2, "numerator", "signal"),
        (3, "signal", "student"),
    ]
    assert registry.descendants("student").ids == {"student"}
    assert [
        (attached.iteration, attached.role, attached.artifact.id)
        for attached in registry.artifacts("c-1")
    ] == [
        (0, "base", "base"),
        (1, "student", "student"),
        (1, "teacher", "teacher"),
    ]


def test_a_chain_deeper_than_python_recurses_is_walked(registry: Registry, url: str):
    registry.record_artifact("p-0", "policy", {})
    blank = {"kind": "policy", "spec": {}, "meta": {}, "created_at": datetime.now(UTC)}
    engine = sa.create_engine(url)
    with engine.begin() as connection:  # one transaction: a commit per row would take seconds
        connection.execute(
            sa.insert(ArtifactRow), [blank | {"id": f"p-{step}"} for step in range(1, 1201)]
        )
        connection.execute(
            sa.insert(EdgeRow),
            [{"child": f"p-{n}", "parent": f"p-{n - 1}", "role": "init"} for n in range(1, 1201)],
        )
    engine.dispose()
    assert registry.lineage("p-1200").lines[-1].depth == 1200
    assert len(registry.descendants("p-0").ids) == 1201


def test_campaigns_are_found_by_id_name_or_beginning(registry: Registry):
    for id, name in (("c-1", "night"), ("c-2", "night"), ("d-3", "noon")):
        registry.campaign_started(id, name, "quickstart", {})
    assert [campaign.id for campaign in registry.campaigns()] == ["d-3", "c-2", "c-1"]
    assert registry.campaign("c-1").id == "c-1"
    assert registry.campaign("night").id == registry.campaign("nig").id == "c-2"
    assert registry.campaign("d-").id == "d-3"
    with pytest.raises(
        LookupError, match=r"^'n' fits several campaigns: noon, night; give more of the name$"
    ):
        registry.campaign("n")
    with pytest.raises(LookupError, match=r"^no campaign 'dawn'; known: noon, night$"):
        registry.campaign("dawn")


def test_what_does_not_fit_is_refused_by_name(registry: Registry):
    with pytest.raises(LookupError, match="none has been run yet"):
        registry.campaign("demo")
    registry.campaign_started("c-1", "demo", "quickstart", {})
    with pytest.raises(LookupError, match="its policy 'ghost' is not in the registry"):
        registry.record_artifact("rollouts", "rollouts", {}, {"policy": "ghost"})
    with pytest.raises(LookupError, match="no artifact 'rollouts'"):  # refused as a whole
        registry.artifact("rollouts")
    with pytest.raises(LookupError, match="no artifact 'ghost'"):
        registry.lineage("ghost")
    with pytest.raises(LookupError, match="no artifact 'ghost'"):
        registry.attach("c-1", 1, "teacher", "ghost")
    with pytest.raises(LookupError, match="no campaign with id 'c-9'"):
        registry.record_report("c-9", 1, "student", report("student"))
    with pytest.raises(ValueError, match="kind 'model' is not one of policy"):
        registry.record_artifact("x", "model", {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="count from 1"):
        registry.record_decision("c-1", 0, DECISION)
    with pytest.raises(ValueError, match="'mysql' is not supported"):
        Registry("mysql://localhost/erpd")


def test_a_campaign_that_is_forgotten_holds_nothing_until_it_is_started_again(registry: Registry):
    one_iteration(registry)
    registry.campaign_started("c-2", "other", "quickstart", {})
    registry.attach("c-2", 1, "teacher", "teacher")
    held = registry.held()
    assert [str(place) for place in held] == [
        "c-2:1.teacher",
        "c-1:0.base",
        "c-1:1.student",
        "c-1:1.teacher",
    ]
    assert {place.artifact for place in held} == {"base", "teacher", "student"}
    assert {
        name
        for name in ("base", "problems", "lp-old", "signal", "student")
        if registry.is_held(name)
    } == {
        *("base", "problems", "lp-old", "signal", "student"),
    }

    registry.forget("c-1")
    forgotten = registry.campaign("c-1").forgotten_at
    assert forgotten is not None and abs((datetime.now(UTC) - forgotten).total_seconds()) < 60
    assert [str(place) for place in registry.held()] == ["c-2:1.teacher"]
    assert {
        name: registry.is_held(name)
        for name in ("student", "signal", "lp-teacher", "teacher", "rollouts", "base")
    } == {
        **{"student": False, "signal": False, "lp-teacher": False},  # made from the teacher
        **{"teacher": True, "rollouts": True, "base": True},  # the teacher and its inputs
    }
    assert [str(place) for place in registry.roles(["student", "teacher"])] == [
        "c-2:1.teacher",
        "c-1:1.student",
        "c-1:1.teacher",
    ]
    assert [campaign.id for campaign in registry.campaigns()] == ["c-2", "c-1"], "it is still known"

    registry.forget("c-1")
    assert registry.campaign("c-1").forgotten_at == forgotten
    registry.campaign_started("c-1", "demo", "quickstart", {})
    assert registry.campaign("c-1").forgotten_at is None and registry.is_held("student")
    with pytest.raises(LookupError, match="no campaign with id 'c-9'"):
        registry.forget("c-9")


def test_what_was_removed_stays_known_and_is_there_again_when_it_is_recorded_again(
    registry: Registry,
):
    one_iteration(registry)
    before = registry.artifact("student")
    registry.removed("student")
    removed = registry.artifact("student")
    assert (
        removed.removed_at is not None and removed.model_copy(update={"removed_at": None}) == before
    )
    assert [
        line.artifact.id for line in registry.lineage("student").lines if line.artifact.removed_at
    ] == ["student"]
    registry.removed("student")
    registry.removed("never recorded")
    assert registry.artifact("student") == removed

    registry.record_artifact(
        "student",
        "policy",
        {"step": 10},
        {"init": "base", "signal": "signal", "rollouts": "rollouts"},
    )
    assert registry.artifact("student") == before


def test_edges_are_every_child_with_every_parent(registry: Registry):
    one_iteration(registry)
    edges = registry.edges()
    assert len(edges) == len(set(edges)) == 14
    assert {parent for child, parent in edges if child == "student"} == {
        "base",
        "signal",
        "rollouts",
    }


def test_an_artifact_is_found_by_a_beginning_that_only_it_has(registry: Registry):
    for name in ("policy-ab", "policy-abc", "policy-b%", "policy-B_"):
        registry.record_artifact(name, "policy", {})
    ids = {
        text: registry.find_artifact(text).id
        for text in ("policy-ab", "policy-abc", "policy-b", "policy-B")
    }
    assert ids == {
        "policy-ab": "policy-ab",
        "policy-abc": "policy-abc",
        "policy-b": "policy-b%",
        "policy-B": "policy-B_",
    }
    with pytest.raises(
        LookupError,
        match=r"^'policy-a' begins several artifacts: policy-ab, policy-abc; give more of it$",
    ):
        registry.find_artifact("policy-a")
    for wrong in ("policy-x", "policy-__", "%", "POLICY-ab"):
        with pytest.raises(LookupError, match="no artifact"):
            registry.find_artifact(wrong)


def test_more_artifacts_than_a_statement_may_name_are_placed(registry: Registry, url: str):
    registry.campaign_started("c-1", "demo", "quickstart", {})
    registry.record_artifact("last", "policy", {})
    registry.attach("c-1", 1, "student", "last")
    assert [
        str(place)
        for place in registry.roles([*(f"none-{number}" for number in range(70_000)), "last"])
    ] == ["c-1:1.student"]


def test_migrations_lead_to_the_models_and_back(url: str):
    engine = database.connect(url)
    database.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []
        assert context.get_current_revision() is not None
    database.downgrade(engine, "base")
    assert set(sa.inspect(engine).get_table_names()) <= {"alembic_version"}
    database.upgrade(engine)
    assert set(sa.inspect(engine).get_table_names()) == {"alembic_version", *Base.metadata.tables}
    engine.dispose()


def test_each_step_down_and_up_keeps_what_both_sides_have_a_place_for(registry: Registry, url: str):
    one_iteration(registry)
    registry.removed("student")
    registry.forget("c-1")
    before, rows = (registry.artifact("student"), registry.campaign("c-1")), count(url)
    registry.close()

    engine = database.connect(url)
    database.downgrade(engine, "0001")
    columns = {
        name: {column["name"] for column in sa.inspect(engine).get_columns(name)}
        for name in ("artifacts", "campaigns")
    }
    assert "removed_at" not in columns["artifacts"] and "forgotten_at" not in columns["campaigns"]
    with engine.connect() as connection:
        assert (
            connection.execute(sa.text("SELECT count(*) FROM edges")).scalar_one() == rows["edges"]
        )
    engine.dispose()

    again = Registry(url)  # upgrades the schema
    assert count(url) == rows
    assert again.artifact("student") == before[0].model_copy(update={"removed_at": None})
    assert again.campaign("c-1") == before[1].model_copy(update={"forgotten_at": None})
    assert again.lineage("student").ids == {
        "student",
        "base",
        "problems",
        "rollouts",
        "lp-old",
        "teacher",
        "lp-teacher",
        "signal",
    }
    again.close()


def test_a_database_of_a_newer_version_is_refused(registry: Registry, url: str):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(RuntimeError, match="written by a newer version"):
        Registry(url)


WRITER = """
import sys
from tasks.registry import Registry
url, writer = sys.argv[1:]
registry = Registry(url)
registry.campaign_started("shared", "shared", "quickstart", {})
for index in range(25):
    registry.record_artifact(f"{writer}-{index}", "policy", {})
    registry.record_artifact("both", "policy", {})
    registry.record_artifact(f"{writer}-{index}-child", "policy", {}, {"init": "both"})
"""


@pytest.mark.slow
def test_two_processes_make_one_database_and_share_it(url: str):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, url, name], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for name in "ab"
    ]
    errors = [writer.communicate(timeout=120)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], errors
    assert (
        count(url)["artifacts"] == 101
        and count(url)["campaigns"] == 1
        and count(url)["edges"] == 50
    )


def test_threads_may_share_a_registry_from_its_first_moment(url: str):
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            registry = Registry(url)
            for index in range(10):
                registry.record_artifact(f"{name}-{index}", "policy", {})
            registry.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and count(url)["artifacts"] == 40
