"""A study's report and the page of score against KL, at any stage of the study.

They show the paper's numbers, are safe, and contain all their pictures.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread
from pages import HOSTILE, Page
from study_lab import EVERY, QWEN, Lab, study_of

from flows.recipes.paper import load_paper
from flows.reports.study import (
    settings_apart,
    study_command,
    write_efficiency_page,
    write_study_report,
)
from flows.reports.study_table import study_markdown, study_rows

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page(finished_study: Lab) -> Page:
    return Page(finished_study.out / "report.html")


def test_the_table_puts_ours_beside_the_papers(page: Page):
    ours = [
        "S1",
        "65.0 [62.0, 68.0]",
        "50.0 [47.0, 53.0]",
        "+12.5 [+9.5, +15.5]",
        "0.050",
        "0.050",
        "250",
        "0.250",
        "8.5",
    ]
    paper = [
        f"CE + Distillation {QWEN}",
        "87.9",
        "85.1",
        "67.1",
        "56.3",
        "69.9",
        "73.3",
        "+4.8",
        "",
    ]
    assert page.row("ce, student 1")[1:] == [*ours, *paper, "+7.7", "−17.1"]
    assert page.row("online, student 1")[10:] == [""] * 11
    assert page.text.count("ce, teacher 1") == 1 and "ce.kl, teacher 1" not in page.text


def test_the_page_says_how_far_each_arm_is_and_links_its_report(page: Page):
    assert "3 of 5 arms are complete" in page.text
    assert "late: killed, 0 of 1 iterations done." in page.text and "never: not begun" in page.text
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links == {
        f"../study-{arm}-0123456789/report.html" for arm in ("ce", "ce.kl", "online", "late")
    }
    assert page.row("ce.kl") == ["ce.kl", "completed", "1 of 1", "1 settingdistill.kl_stop=0.05"]


def test_the_papers_findings_and_settings_are_there_and_marked_as_its_own(page: Page):
    paper = load_paper("table1")
    assert all(finding in page.text for finding in paper.findings)
    assert "the paper's findings on its own models and benchmarks, not ours" in page.text
    assert page.row("teacher minibatch") == ["teacher minibatch", "32, 64, 256", "Sec. 4.1"]


def test_the_command_is_the_one_that_was_given():
    study = study_of(recipe="my study.yaml", overrides=("seed=3", "distill.S1={steps: 4}"))
    assert (
        study_command(study)
        == "erpd run 'my study.yaml' --set scale=tiny --set seed=3 --set 'distill.S1={steps: 4}'"
    )
    assert study_command(study_of()) == "erpd run table1 --set scale=tiny"


def test_only_what_differs_sets_an_arm_apart():
    apart = settings_apart(study_of(("ce", "ce.kl")).arms)
    assert apart == {"ce": ("distill.kl_stop=null",), "ce.kl": ("distill.kl_stop=0.05",)}


def test_every_picture_is_whole_in_the_page_and_beside_it(finished_study: Lab, page: Page):
    assert {path.name for path in finished_study.out.glob("*.png")} == {
        f"{name}.png" for name in EVERY
    }
    assert sum(tag == "img" for tag, _ in page.tags) == len(EVERY)
    for path in finished_study.out.glob("*.png"):
        height, width, _ = imread(io.BytesIO(path.read_bytes()), format="png").shape
        assert width > 500 and height > 200, path.name


def test_the_page_asks_for_nothing_outside_itself(page: Page):
    policy = [
        attributes["content"]
        for tag, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "data:").startswith(("data:", "../study-"))
    assert not page.names & {"script", "iframe", "object", "base"}


def test_the_same_data_gives_the_same_bytes(finished_study: Lab, tmp_path: Path):
    again = write_study_report(
        finished_study.registry,
        finished_study.store,
        study_of(),
        finished_study.campaigns,
        tmp_path / "elsewhere",
    ).parent
    names = sorted(path.name for path in finished_study.out.iterdir())
    assert names == sorted([*(f"{name}.png" for name in EVERY), "report.html"])
    assert all(
        (finished_study.out / name).read_bytes() == (again / name).read_bytes() for name in names
    )


def test_hostile_text_stays_text(study_lab: Lab):
    arm = HOSTILE + "$x_{"
    study_lab.campaigns[arm] = "../" + HOSTILE
    study_lab.registry.campaign_started(study_lab.campaigns[arm], HOSTILE, HOSTILE, {})
    study_lab.measure(arm, 0, "base", "base", 0.0, 0.0, **{"te$t_{<b>": 0.5})
    study_lab.measure(arm, 1, "student", "s", 0.1, 0.1, **{"te$t_{<b>": 0.6})
    study_lab.registry.iteration(study_lab.campaigns[arm], 1, "completed", {"rollouts": 3.0})
    study_lab.signal(arm)
    study = study_of((arm,), description=HOSTILE, name=HOSTILE)
    pages = [
        study_lab.write(study),
        Page(write_efficiency_page(study_lab.registry, study_lab.campaigns, study_lab.out)),
    ]
    for page in pages:
        assert not page.names & {"script", "b"}
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
        assert page.text.count(HOSTILE) >= 3
    assert [attributes["href"][:6] for tag, attributes in pages[0].tags if tag == "a"] == ["../..%"]  # type: ignore[index]
    assert "<b>" not in study_markdown(study_rows(study_lab.registry, study_lab.campaigns))


def test_a_study_that_has_not_begun_has_a_page_and_loses_old_pictures(study_lab: Lab):
    study_lab.out.mkdir(parents=True)
    (study_lab.out / "gains.png").touch()
    page = study_lab.write(study_of())
    assert (
        "0 of 5 arms are complete" in page.text and "No policy has been measured yet." in page.text
    )
    assert not list(study_lab.out.glob("*.png"))


def test_lost_files_do_not_stop_a_report(study_lab: Lab):
    study_lab.run()
    for kind in ("training", "signal"):
        for artifact in study_lab.store.artifacts(kind):
            study_lab.store.discard(artifact)
    study_lab.write(study_of())
    names = {path.stem for path in study_lab.out.glob("*.png")}
    assert {"gains", "score_vs_kl", "stages", "time"} <= names and not {
        "deviation",
        "log_ratios",
    } & names


def test_a_study_without_a_paper_has_no_columns_for_it(finished_study: Lab, tmp_path: Path):
    page = Page(
        write_study_report(
            finished_study.registry,
            finished_study.store,
            study_of(paper=None),
            finished_study.campaigns,
            tmp_path,
        )
    )
    assert len(page.row("ce, student 1")) == 10 and "The paper" not in page.text


def test_the_efficiency_page_names_the_front(finished_study: Lab, tmp_path: Path):
    page = Page(write_efficiency_page(finished_study.registry, finished_study.campaigns, tmp_path))
    front = [row[0] for row in page.rows if row[-1] == "yes"]
    # ce.kl's student has the KL of ce's and a lower score
    assert front == ["base", "ce, teacher 1", "ce, student 1", "online, student 1"]
    assert page.row("ce, student 1")[1:] == [
        "S1",
        "65.0 [62.0, 68.0]",
        "50.0 [47.0, 53.0]",
        "+12.5 [+9.5, +15.5]",
        "0.050",
        "250",
        "yes",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"efficiency.html", "efficiency.png"}
    with pytest.raises(LookupError):
        write_efficiency_page(finished_study.registry, {"x": "nothing"}, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_study_report_needs_neither_torch_nor_prefect():
    modules = "flows.reports.study, flows.reports.figures.study, flows.reports.figures.signal"
    code = (
        f"import {modules}, sys; print(sorted({{'torch', 'prefect', 'ray', 'mlflow'}} & "
        f"set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
