"""A whole campaign by the real command.

Checks the JSON result, the contents of MLflow and registry, and that nothing is computed or logged
twice.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import (
    Campaign,
    events,
    no_process_left,
    numbers,
    processes_of,
    run_campaign,
    tracked,
    wait_until,
)

from tasks.execution.timeline import read_timeline
from tasks.registry import Registry
from tasks.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def first(undisturbed: Campaign) -> dict[str, Any]:
    return undisturbed.result


@pytest.fixture(scope="module")
def second(
    undisturbed: Campaign, first: dict[str, Any]
) -> tuple[Campaign, list[dict[str, Any]], dict[str, Any]]:
    """The same command again: its run, the events it added, and MLflow's earlier points."""
    before, points = len(events(undisturbed.home)), tracked(undisturbed.home)
    again = undisturbed.again()
    return again, events(undisturbed.home)[before:], points


def open_registry(campaign: Campaign) -> Registry:
    return Registry(f"sqlite:///{campaign.home / 'registry.db'}")


# ------------------------------------------------------------------------------------------- result


def check_report(report: dict[str, Any]) -> None:
    assert set(report) == {"policy", "scores", "kl_old", "kl_base", "entropy", "length"}
    assert report["policy"].startswith("policy-")
    assert set(report["scores"]) == {"test"}
    score = report["scores"]["test"]
    assert set(score) == {"avg", "k", "problems", "ci95"}
    assert (score["k"], score["problems"]) == (4, 32)
    low, high = score["ci95"]
    assert 0 <= low <= score["avg"] <= high <= 1
    assert all(
        isinstance(report[name], float) and math.isfinite(report[name])
        for name in ("kl_old", "kl_base", "entropy", "length")
    )


def test_stdout_is_exactly_the_contracts_object(undisturbed: Campaign, first: dict[str, Any]):
    assert undisturbed.done.stdout.count("\n") == 1
    assert set(first) == {
        "campaign",
        "status",
        "recipe",
        "base",
        "iterations",
        "mlflow_url",
        "report",
    }
    assert (first["status"], first["recipe"]) == ("completed", "tiny")
    assert first["campaign"].startswith("tiny-")
    check_report(first["base"])
    assert first["base"]["kl_old"] == first["base"]["kl_base"] == 0.0
    assert [iteration["index"] for iteration in first["iterations"]] == [1, 2]
    for iteration in first["iterations"]:
        assert set(iteration) == {"index", "strategy", "decision", "teacher", "student", "seconds"}
        assert iteration["strategy"] in ("S1", "S2", "S3", "online")
        check_report(iteration["teacher"])
        check_report(iteration["student"])
        assert (
            iteration["decision"]["strategy"] == iteration["strategy"]
            and iteration["decision"]["reason"]
            and iteration["decision"]["evidence"]
        )
        seconds = iteration["seconds"]
        assert {"rollouts", "teacher", "distill", "score", "evaluate"} <= set(seconds)
        assert all(isinstance(value, float) and value >= 0 for value in seconds.values())
    assert Path(first["report"]).is_file() and Path(first["report"]).is_relative_to(
        undisturbed.home
    )
    assert isinstance(first["mlflow_url"], str) and first["mlflow_url"]


def test_progress_and_table_went_to_stderr(undisturbed: Campaign):
    assert "train teacher" in undisturbed.done.stderr and "Traceback" not in undisturbed.done.stderr


def test_the_first_iteration_starts_from_the_base(first: dict[str, Any]):
    for role in ("teacher", "student"):
        report = first["iterations"][0][role]
        assert report["kl_old"] == pytest.approx(report["kl_base"]) and report["kl_old"] > 0
    later = first["iterations"][1]["student"]
    assert later["kl_old"] != pytest.approx(later["kl_base"]), (
        "iteration 2 starts from the student of iteration 1"
    )


def test_the_students_learned(first: dict[str, Any]):
    base = first["base"]["scores"]["test"]["avg"]
    assert first["iterations"][0]["teacher"]["scores"]["test"]["avg"] > base
    assert first["iterations"][1]["student"]["scores"]["test"]["avg"] > base + 0.05


def test_nothing_is_written_outside_the_home(undisturbed: Campaign, second: Any):
    assert list((undisturbed.folder / "cwd").iterdir()) == []
    assert list((undisturbed.folder / "user").iterdir()) == []
    assert {path.name for path in undisturbed.folder.iterdir()} == {"home", "cwd", "user"}


def test_no_process_outlives_the_command(undisturbed: Campaign, second: Any):
    assert no_process_left(undisturbed.home) == []


# --------------------------------------------------------------------------------------- second run


def test_the_second_run_gives_the_same_numbers(first: dict[str, Any], second: Any):
    again = second[0].result
    assert numbers(again) == numbers(first)
    assert [iteration["seconds"] for iteration in again["iterations"]] == [
        iteration["seconds"] for iteration in first["iterations"]
    ], "the times of the first run"


def test_the_second_run_finds_every_stage_in_the_store(undisturbed: Campaign, second: Any):
    statuses = {event.get("status") for event in second[1] if event["label"] != "session"}
    assert statuses == {"cached", "said"}
    worked = [
        event["label"] for event in events(undisturbed.home) if event.get("status") == "finished"
    ]
    cached = [event["label"] for event in second[1] if event["status"] == "cached"]
    assert set(worked) <= set(cached)
    assert len(worked) == len(set(worked)), "no stage is computed twice"


def test_the_second_run_says_nothing_twice(undisturbed: Campaign, second: Any):
    assert tracked(undisturbed.home) == second[2]


# ------------------------------------------------------------------------------------------- MLflow


@pytest.fixture(scope="module")
def runs(undisturbed: Campaign, second: Any) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{undisturbed.home / 'mlflow' / 'mlflow.db'}")
    all_runs = client.search_runs(
        [client.get_experiment_by_name("erpd").experiment_id], max_results=500
    )
    return {run.data.tags.get("erpd.phase", "campaign"): run for run in all_runs}


def test_a_campaign_is_a_parent_run_with_its_phases_as_children(
    runs: dict[str, Any], first: dict[str, Any]
):
    expected = {
        "campaign",
        "0/base",
        *(f"{index}/{role}" for index in (1, 2) for role in ("teacher", "student")),
    }
    assert expected <= set(runs)
    parent = runs["campaign"]
    assert parent.data.tags["erpd.campaign"] == first["campaign"]
    assert all(
        run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        for name, run in runs.items()
        if name != "campaign"
    )
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert (
        parent.data.params["teacher.steps"] == "60" and parent.data.params["prompts.count"] == "48"
    )


def test_every_step_is_tracked_once(undisturbed: Campaign, second: Any):
    phases = tracked(undisturbed.home)
    for index in (1, 2):
        for role, steps in (("teacher", 60), ("student", 6)):
            points = phases[f"{index}/{role}"]
            assert [
                points.get(("train/loss", step), []).__len__() for step in range(1, steps + 1)
            ] == [1] * steps
            assert ("train/loss", steps + 1) not in points
            assert (
                len(
                    points[
                        "kl/old",
                        steps if role == "student" else max(s for n, s in points if n == "kl/old"),
                    ]
                )
                == 1
            )
    assert all(len(values) == 1 for points in phases.values() for values in points.values())


def test_scores_and_kl_in_mlflow_are_those_of_the_contract(
    undisturbed: Campaign, first: dict[str, Any]
):
    points = tracked(undisturbed.home)["campaign"]
    for step, report in enumerate(
        [first["base"], *(iteration["student"] for iteration in first["iterations"])]
    ):
        assert points["score/test", step] == [pytest.approx(report["scores"]["test"]["avg"])]
        assert points["kl/base", step] == [pytest.approx(report["kl_base"])]
        assert points["eval/test/length", step] == [pytest.approx(report["length"])], (
            "there is only one benchmark"
        )
        for name in ("pass_at_k", "majority"):
            assert 0 < points[f"eval/test/{name}", step][0] <= 1
        assert points["eval/test/pass_at_k", step][0] >= report["scores"]["test"]["avg"]
    assert points["teacher/kl/old", 1] == [
        pytest.approx(first["iterations"][0]["teacher"]["kl_old"])
    ]


# ----------------------------------------------------------------------------------------- registry


def test_the_registry_holds_reports_decisions_and_times(
    undisturbed: Campaign, first: dict[str, Any]
):
    registry = open_registry(undisturbed)
    campaign = registry.campaign(first["campaign"])
    assert (campaign.status, campaign.recipe, campaign.config["teacher"]["steps"]) == (
        "completed",
        "tiny",
        60,
    )
    reports = {
        (entry.iteration, entry.role): entry.report.model_dump(mode="json")
        for entry in registry.reports(campaign.id)
    }
    assert reports[0, "base"] == first["base"]
    recorded = registry.iterations(campaign.id)
    for iteration, record in zip(first["iterations"], recorded, strict=True):
        assert (
            reports[iteration["index"], "teacher"] == iteration["teacher"]
            and reports[iteration["index"], "student"] == iteration["student"]
        )
        assert record.status == "completed"
        assert record.seconds == pytest.approx(iteration["seconds"])
        assert (
            record.decision is not None
            and json.loads(record.decision.model_dump_json()) == iteration["decision"]
        )
        assert {"start", "teacher"} & set(record.decision.evidence) or record.decision.evidence
    registry.close()


def test_the_lineage_of_the_last_student_reaches_base_batches_teachers_and_students(
    undisturbed: Campaign, first: dict[str, Any]
):
    registry, store = open_registry(undisturbed), Store(undisturbed.home / "store")
    last = first["iterations"][1]["student"]["policy"]
    tree = registry.lineage(last)
    kinds = {line.artifact.kind for line in tree.lines}
    assert {"policy", "training", "rollouts", "column", "problems"} <= kinds
    ancestors = {first["base"]["policy"], first["iterations"][0]["student"]["policy"]}
    if first["iterations"][1]["strategy"] != "S2":
        ancestors.add(first["iterations"][1]["teacher"]["policy"])
    assert ancestors <= tree.ids
    assert all(store.has(artifact) for artifact in tree.ids)
    assert last in registry.descendants(first["base"]["policy"]).ids
    registry.close()


def test_every_artifact_is_whole_and_nothing_half_made_is_left(undisturbed: Campaign, second: Any):
    store = Store(undisturbed.home / "store")
    kinds = [path.name for path in store.root.iterdir() if path.name not in ("locks", "partial")]
    assert {"policy", "problems", "rollouts", "column", "training", "evaluation"} <= set(
        kinds
    ) and "damaged" not in kinds
    assert [
        store.damage(artifact)
        for kind in kinds
        for artifact in store.artifacts(kind)
        if store.damage(artifact)
    ] == []
    assert list((store.root / "partial").iterdir()) == []
    assert [
        path
        for path in store.root.rglob("*")
        if path.name.endswith((".tmp", ".sum")) or path.name == ".scratch"
    ] == []


def test_the_report_is_one_page_that_needs_nothing_else(first: dict[str, Any]):
    page = Path(first["report"]).read_text()
    assert (
        first["campaign"] in page and f"{100 * first['base']['scores']['test']['avg']:.1f}" in page
    )
    assert "<script src" not in page and 'href="http' not in page.replace("https://arxiv", "")


def test_the_report_shows_when_the_stages_ran_and_how_much_was_idle(
    undisturbed: Campaign, first: dict[str, Any]
):
    path = Path(first["report"])
    idle = re.search(r"Idle: ([0-9.]+) % of the CPU-seconds", path.read_text())
    assert idle is not None and 0 < float(idle[1]) < 100
    assert (path.parent / "timeline.png").read_bytes().startswith(b"\x89PNG")

    timeline = read_timeline(undisturbed.home / "logs" / f"{first['campaign']}.events.jsonl")
    assert timeline is not None
    runs = [run for session in timeline.sessions for run in session.runs]
    assert all(run.finished and run.node and run.pid and run.cpus >= 1 for run in runs)
    unnamed = {run.label for run in runs if run.phase is None}
    assert all(label.startswith(("draw ", "import ")) for label in unnamed), unnamed
    assert {run.iteration for run in runs} == {0, 1, 2}


# ---------------------------------------------------------------------------------------------- Ray


@pytest.mark.long
@pytest.mark.ray
def test_on_ray_the_numbers_are_the_same_and_no_process_stays(
    undisturbed: Campaign, first: dict[str, Any], short_home: Path
):
    earlier = {process.pid for process in psutil.process_iter()}
    on_ray = run_campaign(short_home, "iterations=1", "runtime.ray=on")
    actual, expected = numbers(on_ray.result), numbers(first)
    assert actual["base"] == expected["base"]
    assert actual["iterations"] == expected["iterations"][:1]
    assert (on_ray.home / "ray" / "session_latest").exists(), "Ray ran, with files in the home"
    assert list((short_home / "cwd").iterdir()) == list((short_home / "user").iterdir()) == []
    assert no_process_left(on_ray.home) == []
    names = ("raylet", "gcs_server", "ray::")
    left = [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.pid not in earlier and any(n in str(process.info) for n in names)
    ]
    assert [process.info for process in left if str(on_ray.home) in str(process.info)] == []


def test_processes_of_a_home_are_found(undisturbed: Campaign):
    """The check above finds a process that has this home in its environment."""
    import subprocess
    import sys

    from helpers import environment

    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], env=environment(undisturbed.home)
    ) as sleeper:
        # Its environment is readable only shortly after Popen returns: the kernel closes the
        # start-up pipe before it fills in the environment.
        try:
            assert wait_until(
                lambda: sleeper.pid in [process.pid for process in processes_of(undisturbed.home)],
                20,
            )
        finally:
            sleeper.kill()
