"""Tracking with a real MLflow on SQLite: points logged twice are there once, even after a kill."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from erpd_core.refs import EvalReport, Score
from tasks.tracking import TrackedRun, Tracker, name_of, params_of, record_metrics, report_metrics

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """A tracker shared by the module, because MLflow takes seconds to create a store.

    Each test has its own campaign.
    """
    home = tmp_path_factory.mktemp("mlflow")
    return Tracker(f"sqlite:///{home}/mlflow.db", home / "artifacts")


@pytest.fixture
def run(tracker: Tracker, request: pytest.FixtureRequest) -> TrackedRun:
    return tracker.campaign_run(request.node.name, "demo")


def again(tracker: Tracker) -> Tracker:
    """The tracker of a resumed process: the same store, an empty memory."""
    return Tracker(tracker.tracking_uri)


def client(tracker: Tracker):
    """The tracker's MLflow client."""
    return tracker._client


def points(tracker: Tracker, run: TrackedRun) -> list[tuple[str, int, float]]:
    """Every point of a run, read directly from the database; NaN as None."""
    engine = sa.create_engine(tracker.tracking_uri)
    with engine.connect() as connection:
        query = sa.text(
            "SELECT key, step, CASE WHEN is_nan THEN NULL ELSE value END FROM metrics WHERE "
            "run_uuid = :run ORDER BY step, key"
        )
        rows = [tuple(row) for row in connection.execute(query, {"run": run.id})]
    engine.dispose()
    return rows


def report(policy: str, avg: float) -> EvalReport:
    score = Score(avg=avg, k=4, problems=32, ci95=(avg - 0.125, avg + 0.125))
    return EvalReport(
        policy=policy, scores={"tiny-test": score}, kl_old=0.5, kl_base=0.75, entropy=1.5, length=12
    )


def test_a_new_experiment_opens_in_the_run_table_and_keeps_its_files_at_home(tracker: Tracker):
    experiment = client(tracker).get_experiment_by_name("erpd")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    home = Path(tracker.tracking_uri.removeprefix("sqlite:///")).parent
    assert experiment.artifact_location == (home / "artifacts").as_uri()
    assert again(tracker).experiment_id == tracker.experiment_id


def test_a_campaign_and_its_phases_are_found_again_and_reopened(tracker: Tracker):
    params = {"seed": 0, "teacher": {"loss": {"kind": "sapo"}, "keep": [1, 2]}}
    campaign = tracker.campaign_run("c-1", "demo", params, {"recipe": "quickstart"})
    phase = tracker.phase_run(
        campaign, "1/teacher", "teacher 1", {"steps": 40}, {"role": "teacher"}
    )
    tracker.finish(phase)
    tracker.finish(campaign, "killed")

    resumed = again(tracker)
    assert (
        resumed.campaign_run(
            "c-1", "demo", params | {"seed": 1, "new": None}, {"recipe": "quickstart", "git": "abc"}
        )
        == campaign
    )
    assert resumed.phase_run(campaign, "1/teacher", "teacher 1", {"steps": 40}) == phase
    assert resumed.phase_run(campaign, "2/teacher", "teacher 2") != phase
    assert resumed.campaign_run("c-2", "demo") != campaign

    kept = client(resumed).get_run(campaign.id)
    assert kept.info.status == "RUNNING" and kept.info.run_name == "demo"
    assert kept.data.params == {
        "seed": "0",
        "teacher.loss.kind": "sapo",
        "teacher.keep": "[1, 2]",
        "new": "null",
    }
    assert kept.data.tags["recipe"] == "quickstart" and kept.data.tags["git"] == "abc"
    child = client(resumed).get_run(phase.id)
    assert (
        child.data.tags["mlflow.parentRunId"] == campaign.id
        and child.data.tags["erpd.phase"] == "1/teacher"
    )

    resumed.finish(campaign)
    assert client(resumed).get_run(campaign.id).info.status == "FINISHED"


def test_more_params_than_one_call_takes_and_values_longer_than_mlflow_keeps(tracker: Tracker):
    params = {f"p{index}": index for index in range(250)} | {"long": "x" * 10_000}
    run = tracker.campaign_run("many-params", "demo", params)
    stored = client(tracker).get_run(run.id).data.params
    assert len(stored) == 251 and stored["p249"] == "249" and stored["long"] == "x" * 6000


def test_a_point_is_written_once_however_often_it_is_said(tracker: Tracker, run: TrackedRun):
    records = [{"step": step, "loss": 1.0 / step, "rollout/accuracy": 0.5} for step in range(1, 6)]
    tracker.log_records(run, records[:3])
    tracker.log_records(run, records)
    tracker.log_records(run, records + records)
    resumed = again(tracker)
    resumed.log_records(
        run,
        [
            {"step": 6, "loss": 0.125, "time": 1000.0},
            *[record | {"loss": 99.0} for record in records],
        ],
    )
    expected = [
        point
        for step in range(1, 6)
        for point in (("rollout/accuracy", step, 0.5), ("train/loss", step, 1.0 / step))
    ]
    assert points(tracker, run) == [*expected, ("train/loss", 6, 0.125)]
    assert {
        point.step: point.timestamp
        for point in client(tracker).get_metric_history(run.id, "train/loss")
    }[6] == 1_000_000


def test_a_new_metric_of_an_old_step_is_added(tracker: Tracker, run: TrackedRun):
    tracker.log_records(run, [{"step": 1, "loss": 1.0}])
    again(tracker).log_records(run, [{"step": 1, "loss": 1.0, "entropy": 2.0}])
    assert points(tracker, run) == [("train/entropy", 1, 2.0), ("train/loss", 1, 1.0)]


def test_numbers_that_are_none_are_points_too_and_are_not_doubled(
    tracker: Tracker, run: TrackedRun
):
    records = [
        {"step": 1, "loss": math.nan},
        {"step": 2, "loss": math.inf},
        {"step": 3, "loss": -math.inf},
        {"step": 4, "loss": 1},
    ]
    tracker.log_records(run, records)
    again(tracker).log_records(run, records)
    assert points(tracker, run) == [
        ("train/loss", 1, None),
        ("train/loss", 2, None),
        ("train/loss", 3, None),
        ("train/loss", 4, 1.0),
    ]


def test_a_call_to_mlflow_holds_whole_steps_and_never_more_than_it_takes(
    tracker: Tracker, run: TrackedRun, monkeypatch: pytest.MonkeyPatch
):
    calls: list[list[tuple[str, int]]] = []
    log_batch = client(tracker).log_batch

    def watched(run_id: str, metrics: list) -> None:
        calls.append([(metric.key, metric.step) for metric in metrics])
        log_batch(run_id, metrics=metrics)

    monkeypatch.setattr(client(tracker), "log_batch", watched)
    tracker.log_records(
        run, [{"step": step, **{f"m{index}": 0.0 for index in range(300)}} for step in range(10)]
    )
    assert [len(call) for call in calls] == [900, 900, 900, 300]
    assert [sorted({step for _, step in call}) for call in calls] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
        [9],
    ]
    with pytest.raises(ValueError, match="more than 1000 metrics"):
        tracker.log_records(run, [{"step": 11, **{f"m{index}": 0.0 for index in range(1001)}}])
    with pytest.raises(KeyError):
        tracker.log_records(run, [{"loss": 1.0}])


def test_after_an_outage_the_same_records_complete_the_curve(
    tracker: Tracker, run: TrackedRun, monkeypatch: pytest.MonkeyPatch
):
    """The worst case: the second call is executed, but its response is lost."""
    records = [{"step": step, **{f"m{index}": 1.0 for index in range(600)}} for step in range(4)]
    log_batch, calls = client(tracker).log_batch, 0

    def flaky(run_id: str, metrics: list) -> None:
        nonlocal calls
        calls += 1
        log_batch(run_id, metrics=metrics)
        if calls == 2:
            raise ConnectionError("the response was lost")

    monkeypatch.setattr(client(tracker), "log_batch", flaky)
    with pytest.raises(ConnectionError):
        tracker.log_records(run, records)
    tracker.log_records(run, records)
    logged = [(key, step) for key, step, _ in points(tracker, run)]
    assert len(logged) == len(set(logged)) == 2400 and calls == 4


def test_student_scores_are_a_curve_over_iterations(tracker: Tracker, run: TrackedRun):
    for logger in (tracker, again(tracker)):
        logger.log_report(run, report("base", 0.25), step=0, role="base")
        logger.log_report(run, report("teacher", 0.875), step=1, role="teacher")
        logger.log_report(run, report("student", 0.5), step=1, role="student")
    logged = points(tracker, run)
    assert [point for point in logged if point[0] == "score/tiny-test"] == [
        ("score/tiny-test", 0, 0.25),
        ("score/tiny-test", 1, 0.5),
    ]
    assert ("teacher/score/tiny-test", 1, 0.875) in logged and (
        "score_high/tiny-test",
        1,
        0.625,
    ) in logged
    assert len(logged) == 3 * 7


def test_names_are_the_ones_of_the_table_and_ones_mlflow_takes():
    assert record_metrics({"step": 3, "time": 9.0, "loss": 1, "clip@0.2": 0.5}) == {
        "train/loss": 1.0,
        "train/clip_0.2": 0.5,
    }
    assert report_metrics(report("x", 0.5)) == {
        **{"score/tiny-test": 0.5, "score_low/tiny-test": 0.375, "score_high/tiny-test": 0.625},
        **{"kl/old": 0.5, "kl/base": 0.75, "entropy": 1.5, "length": 12.0},
    }
    assert set(report_metrics(report("x", 0.5), "unlearned")) >= {
        "unlearned/kl/old",
        "unlearned/score/tiny-test",
    }
    assert name_of("avg@[32]") == "avg__32_"
    assert params_of({"a": {"b": True, "c": None, "d": {"e": 1e-6}}, "f": "x"}) == {
        "a.b": "true",
        "a.c": "null",
        "a.d.e": "1e-06",
        "f": "x",
    }


def test_checkpoints_are_model_versions_without_upload(tracker: Tracker, run: TrackedRun):
    first = tracker.register_policy(
        "erpd-demo",
        "policy-1",
        run,
        alias="student",
        uri="file:///store/policy-1",
        tags={"step": "10"},
    )
    assert tracker.register_policy("erpd-demo", "policy-2", run, alias="student") == "2"
    assert (
        again(tracker).register_policy("erpd-demo", "policy-1", run, alias="best") == first == "1"
    )

    version = client(tracker).get_model_version_by_alias("erpd-demo", "best")
    assert (version.source, version.run_id) == ("erpd:///policy-1", run.id)
    assert version.tags == {
        "erpd.policy": "policy-1",
        "erpd.campaign": run.campaign,
        "erpd.uri": "file:///store/policy-1",
        "step": "10",
    }
    assert client(tracker).get_model_version_by_alias("erpd-demo", "student").version == 2
    assert client(tracker).list_artifacts(run.id) == []


def test_files_and_texts_are_attached_under_the_home(
    tracker: Tracker, run: TrackedRun, tmp_path: Path
):
    (tmp_path / "report.html").write_text("<p>one</p>")
    for _ in range(2):
        tracker.log_artifact(run, tmp_path / "report.html", "report")
        tracker.log_text(run, "S1: the teacher is better", "decision/1.md")
    home = (
        Path(tracker.tracking_uri.removeprefix("sqlite:///")).parent
        / "artifacts"
        / run.id
        / "artifacts"
    )
    files = {
        str(path.relative_to(home)): path.read_text() for path in home.rglob("*") if path.is_file()
    }
    assert files == {
        "report/report.html": "<p>one</p>",
        "decision/1.md": "S1: the teacher is better",
    }


def test_links(tracker: Tracker, run: TrackedRun):
    page, training = f"/#/experiments/{tracker.experiment_id}/runs", "workflowType=machine_learning"
    assert (tracker.page(run), tracker.charts) == (
        f"{page}/{run.id}",
        f"{page}?{training}&compareRunsMode=CHART",
    )


LOGGER = """
import sys
from tasks.tracking import Tracker
assert "mlflow" not in sys.modules
tracker = Tracker(sys.argv[1])
run = tracker.campaign_run("killed", "demo", {"seed": 0})
for step in range(int(sys.argv[2])):
    tracker.log_records(run, [{"step": 2 * step + half, **{f"m{index}": step + index for index in range(40)}} for half in (0, 1)])
    print(step, flush=True)
tracker.finish(run)
"""  # noqa: E501


@pytest.mark.long
def test_a_logger_killed_in_the_middle_leaves_whole_steps_and_is_resumed_without_a_gap(
    tracker: Tracker, tmp_path: Path
):
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOGGER, tracker.tracking_uri]
    for wanted in (3, 9):
        killed = subprocess.Popen(
            [*command, "100000"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert killed.stdout is not None
        while (line := killed.stdout.readline()) and int(line) < wanted:
            pass
        time.sleep(0.013 * wanted)  # until somewhere inside a call
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()

    run = tracker.campaign_run("killed", "demo")
    logged = [(key, step) for key, step, _ in points(tracker, run)]
    reached = max(step for _, step in logged) + 1
    names = [f"train/m{index}" for index in range(40)]
    assert reached >= 2 * 9 and sorted(logged) == sorted(
        (name, step) for name in names for step in range(reached)
    )

    total = reached // 2 + 5
    subprocess.run(
        [*command, str(total)], cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL
    )
    logged = [(key, step) for key, step, _ in points(tracker, run)]
    assert sorted(logged) == sorted((name, step) for name in names for step in range(2 * total))
    assert client(tracker).get_run(run.id).info.status == "FINISHED"
    assert (
        len(client(tracker).search_runs([tracker.experiment_id], "tags.`erpd.campaign` = 'killed'"))
        == 1
    )
    # nothing was written to the working directory or the user's home
    assert list(tmp_path.iterdir()) == []


KILLED_AT_TABLE = """
import os, signal, sys
import sqlalchemy as sa
from tasks.tracking import Tracker

left = int(sys.argv[2])

@sa.event.listens_for(sa.Engine, "after_cursor_execute")
def count(connection, cursor, statement, *more):
    global left
    left -= statement.lstrip().startswith("CREATE TABLE")
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

Tracker(sys.argv[1])
"""


def test_a_kill_while_the_store_is_made_leaves_nothing_in_the_way(tmp_path: Path):
    """MLflow's SQLite migrations are not one transaction: after an interrupted migration, no later
    start could continue.
    """
    store = f"sqlite:///{tmp_path}/mlflow.db"
    for table in (1, 20, 40):
        command = [sys.executable, "-c", KILLED_AT_TABLE, store, str(table)]
        assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == -signal.SIGKILL
        assert (tmp_path / "mlflow.db.new").exists()
        assert not (tmp_path / "mlflow.db").exists()
    tracker = Tracker(store)
    assert tracker.campaign_run("c-1", "demo").id
    assert not (tmp_path / "mlflow.db.new").exists()


@pytest.mark.long
def test_two_processes_make_one_store(tmp_path: Path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    loggers = [
        subprocess.Popen(
            [sys.executable, "-c", LOGGER, uri, "1"], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    errors = [logger.communicate(timeout=300)[1] for logger in loggers]
    assert [logger.returncode for logger in loggers] == [0, 0], errors
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "mlflow.db",
        "mlflow.db.lock",
    ]
