"""A study with every kind of arm by the real command.

Arms share equal stages, and one page compares the study with the paper.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import Campaign, erpd, events, run_campaign, tracked
from pages import Page

from tasks.registry import Registry

pytestmark = pytest.mark.slow

STUDY = """
description: Two cells of Table 7, an ensemble, PPO, and an online stage between, in miniature.
paper: table7
pictures: [gains, score_vs_kl, teacher_curves, online_curves, stages, deviation, log_ratios, time]
common:
  decision: {fixed: [S2]}
  prompts: {count: 32}
  sampling: {samples: 8, shard: 16}
  teacher: {minibatch: 64, steps: 6, keep: [3]}
  weak_teacher: {minibatch: 64, steps: 8, keep: [], unlearn_step: 3}
  distill: {minibatch: 64, steps: 3}
  evaluation:
    signal: true
    validation: {count: 16}
    validation_sampling: {samples: 4, shard: 16}
    benchmarks: {test: {count: 16}}
    sampling: {samples: 4, shard: 16}
scales:
  tiny: {runtime: {ray: "off", cpus: 1}}
arms:
  - {name: e8-un3, rows: {base: base, 1.student: e70-un10}, set: {distill: {S2: [{signal: {numerator: weak, denominator: unlearned}}]}}}
  - name: e8-curr
    rows: {1.student: e10-curr}
    set: {distill: {select: validation, keep: [1], kl_budget: 1.0e-9, S2: [{signal: {numerator: weak, denominator: old}}]}}
  - name: ensemble
    set:
      runs: {recovered: {init: unlearned, loss: {kind: ce, beta: 0.05}, minibatch: 64, steps: 4}}
      distill:
        S2:
          sum: [{signal: {numerator: weak, denominator: unlearned}, plus: [{signal: {numerator: recovered, denominator: unlearned}}]}]
          two: [{signal: {numerator: weak, denominator: unlearned}}, {signal: {numerator: recovered, denominator: live}, steps: 2}]
  - {name: ppo, set: {decision: {fixed: [none]}, teacher: {loss: {kind: ppo, alpha: 0.5, critic: {minibatch: 64, steps: 4}}}}}
  - name: switching
    set:
      iterations: 2
      decision: {fixed: [online, S2]}
      distill: {S2: [{signal: {numerator: weak, denominator: unlearned}}]}
      online: {steps: 3, prompts_per_step: 8, sampling: {samples: 4, temperature: 1.0, max_new_tokens: 24, shard: 8}}
"""  # noqa: E501


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    folder = tmp_path_factory.mktemp("study")
    (folder / "cells.yaml").write_text(STUDY)
    yield run_campaign(folder, arguments=["run", str(folder / "cells.yaml"), "--json"])


def finished(home: Path) -> Counter[str]:
    """Label of a stage without its iteration -> how often it was computed over all arms."""
    return Counter(
        event["label"].partition(": ")[2]
        for event in events(home)
        if event.get("status") == "finished"
    )


def test_the_object_has_every_arm(study: Campaign):
    result = study.result
    assert result["status"] == "completed" and result["campaign"].startswith("cells-tiny-")
    assert list(result["arms"]) == ["e8-un3", "e8-curr", "ensemble", "ppo", "switching"]
    assert [(row["arm"], row["strategy"]) for row in result["iterations"]] == [
        ("e8-un3", "S2"),
        ("e8-curr", "S2"),
        ("ensemble", "S2"),
        ("ppo", "none"),
        ("switching", "online"),
        ("switching", "S2"),
    ]


def test_cells_of_a_grid_share_the_batch_the_teacher_and_its_columns(study: Campaign):
    """Four arms start from the base on one batch: one unlearned run, and one scoring pass of each
    of its policies.
    """
    done = finished(study.home)
    assert done["train unlearned (mse, 8 steps)"] == 2, (
        "one on the base's batch, one on the online policy's"
    )
    assert done["score the batch under weak"] == done["score the batch under unlearned"] == 2
    assert done["sample the fixed batch"] == done["score the batch under old"] == 2
    assert (
        done["train recovered (ce, 4 steps)"]
        == done["train teacher (ppo, 6 steps)"]
        == done["train the critic (4 steps)"]
        == 1
    )
    assert done["distil the student (S2)"] == 3
    assert done["distil the student sum (S2)"] == done["distil the student two (S2)"] == 1
    assert done["evaluate base"] == 1


def test_an_arm_without_distillation_makes_the_teacher_its_student(study: Campaign):
    ppo = next(row for row in study.result["iterations"] if row["arm"] == "ppo")
    assert ppo["teacher"] == ppo["student"]


def test_the_offline_iteration_starts_from_the_online_policy(study: Campaign):
    online, offline = study.result["iterations"][-2:]
    assert online["student"]["kl_old"] == pytest.approx(online["student"]["kl_base"])
    assert offline["student"]["kl_old"] != pytest.approx(offline["student"]["kl_base"])


def test_every_distilled_student_of_a_full_selection_has_a_validation_score(study: Campaign):
    registry = Registry(f"sqlite:///{study.home}/registry.db")
    for campaign in study.result["arms"].values():
        attached = registry.artifacts(campaign)
        distilled = {one.iteration for one in attached if one.role.startswith("student training")}
        validated = {one.iteration for one in attached if one.role == "student validation"}
        assert distilled <= validated, campaign
    registry.close()


def test_of_alternatives_validation_chose_one_and_said_why(study: Campaign):
    notices = [event["label"] for event in events(study.home) if event.get("status") == "said"]
    assert any("chose the student of step" in line for line in notices)


def test_no_step_within_the_kl_budget_leaves_the_first(study: Campaign):
    curr = next(row for row in study.result["iterations"] if row["arm"] == "e8-curr")
    notices = [
        event["label"]
        for event in events(study.home, study.result["arms"]["e8-curr"])
        if event.get("status") == "said"
    ]
    assert "1: chose the student of step 1" in notices
    assert curr["student"]["kl_old"] > 1e-9


def test_the_page_sets_ours_beside_the_papers(study: Campaign):
    path = Path(study.result["report"])
    page = Page(path)
    assert "e8-un3" in page.text and "70 / 10" in page.text and "60.1" in page.text
    assert {picture.name for picture in path.parent.glob("*.png")} >= {
        "gains.png",
        "score_vs_kl.png",
        "deviation.png",
        "log_ratios.png",
        "time.png",
    }
    assert (path.parent / "efficiency.html").is_file()


def test_mlflow_has_a_run_for_each_arm_and_no_point_twice(study: Campaign):
    points = tracked(study.home)
    assert {"1/online", "1/critic", "1/recovered", "1/unlearned", "1/student-sum"} <= set(points)
    arms = len(study.result["arms"])
    assert all(len(values) <= arms for phase in points.values() for values in phase.values())


@pytest.mark.long
def test_the_same_command_again_finds_everything(study: Campaign):
    before = len(events(study.home))
    again = study.again().result
    added: list[dict[str, Any]] = events(study.home)
    assert len(added) > before
    assert Counter(event["status"] for event in added if "status" in event)["finished"] == sum(
        finished(study.home).values()
    )
    assert again["iterations"] == study.result["iterations"]


@pytest.mark.long
def test_a_study_is_reported_by_name_and_shown(study: Campaign):
    done = erpd("report", "cells", home=study.home, cwd=study.folder / "cwd")
    assert done.returncode == 0 and "report.html" in done.stdout
    several = erpd(
        "report",
        *list(study.result["arms"].values())[:2],
        home=study.home,
        cwd=study.folder / "cwd",
    )
    assert several.returncode == 0 and several.stdout.strip().endswith("efficiency.html")
    shown = erpd(
        "show", str(study.folder / "cells.yaml"), home=study.home, cwd=study.folder / "cwd"
    )
    assert shown.returncode == 0 and "e8-curr" in shown.stdout


def test_a_wrong_scale_or_key_is_one_line_and_exit_2(study: Campaign):
    for wrong in ("scale=paper", "teacher.stepps=3"):
        done = erpd(
            "run",
            str(study.folder / "cells.yaml"),
            "--set",
            wrong,
            home=study.home,
            cwd=study.folder / "cwd",
        )
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr


def test_the_result_can_be_read_as_json(study: Campaign):
    assert json.loads(study.done.stdout) == study.result
