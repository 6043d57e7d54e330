"""The tour of docs/ui.md in a browser: form, run, decision, schedule, MLflow, report.

These tests take its pictures.

`ERPD_PICTURES=docs/pictures/ui` renews the pictures. The tests share one platform and two campaigns
and depend on their order.
"""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from helpers import erpd
from playwright.sync_api import Page, expect
from prefect_pages import Prefect

from tasks.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]
Photograph = Any


def test_the_deployments_are_there(prefect: Prefect, photograph: Photograph):
    prefect.open("/deployments")
    for name in ("ablation", "campaign", "evaluation", "iteration", "online", "report"):
        expect(
            prefect.page.get_by_role("row").get_by_role("link", name=name, exact=True).first
        ).to_be_visible()
    photograph(prefect.page, "deployments")


def test_a_form_has_fields_with_titles_descriptions_and_choices(prefect: Prefect):
    prefect.custom_run("campaign")
    assert "tiny" in prefect.options("Recipe") and "table1" not in prefect.options("Recipe")
    assert prefect.options("Decision") == ["auto", "ask", "fixed"]
    expect(prefect.field("KL budget")).to_contain_text(
        "Largest KL of the student to its start, in nats per token."
    )
    for name in ("A recipe", "A file", "All settings"):
        expect(prefect.page.get_by_role("button", name=name)).to_be_visible()
    prefect.page.get_by_role("button", name="A file").click()
    expect(prefect.field("Path")).to_contain_text("Path of a YAML recipe.")
    expect(prefect.field("Kind").locator("textarea")).to_have_value("file")


def test_a_wrong_value_is_refused_in_words_and_no_run_is_made(
    prefect: Prefect, photograph: Photograph
):
    before = prefect.api("/flow_runs/count", {})
    prefect.custom_run("campaign")
    prefect.fill("Iterations", 0)
    prefect.submit()
    message = prefect.page.get_by_text(
        "Validation failed for field 'what.iterations'. Failure reason: 0 is less than the "
        "minimum of 1"
    )
    expect(message.first).to_be_visible()
    photograph(prefect.page, "refused")
    assert prefect.api("/flow_runs/count", {}) == before


def test_a_campaign_is_submitted_and_watched(
    prefect: Prefect, submitted: str, undecided: str, photograph: Photograph
):
    page = prefect.page
    prefect.wait_for(submitted, "Running", "Completed")
    prefect.open_run(submitted)
    expect(page.get_by_text("train teacher (ce, 60 steps): started").first).to_be_visible(
        timeout=90_000
    )
    photograph(page, "running")
    prefect.wait_for(submitted, "Completed")
    page.reload()
    expect(page.locator(".p-tag, .state-badge").get_by_text("Completed").first).to_be_visible()
    expect(
        page.get_by_text(re.compile("^1: decided S1: the teacher is better")).first
    ).to_be_visible()
    photograph(page, "completed")
    prefect.open_run(submitted, "Subflow Runs")
    for name in ("iteration-1", "iteration-2"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()


def test_a_campaign_has_a_table_a_bar_a_picture_and_links(
    prefect: Prefect, links: dict[str, str], submitted: str, photograph: Photograph
):
    page = prefect.page
    prefect.wait_for(submitted, "Completed")
    prefect.open_artifact(submitted, "campaign-progress")
    expect(page.get_by_text("2 of 2 iterations")).to_be_visible()
    expect(page.get_by_text("Progress: 100%")).to_be_visible()

    prefect.open_artifact(submitted, "stages")
    expect(
        page.get_by_role("row").filter(has_text="train teacher (ce, 60 steps)").first
    ).to_contain_text("finished")
    photograph(page, "stages")

    prefect.open_artifact(submitted, "score-vs-kl")
    assert (
        page.get_by_role("img", name="Score against KL to the base").evaluate(
            "one => one.naturalWidth"
        )
        > 600
    )
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
        "nothing is wider than the page"
    )
    photograph(page, "picture")

    prefect.open_artifact(submitted, "campaign-report")
    for name in ("base", "teacher 1", "student 2"):
        expect(page.get_by_role("cell", name=re.compile(f"^{name}")).first).to_be_visible()

    prefect.open_artifact(submitted, "mlflow")
    here = page.get_by_role("link", name="This campaign in MLflow").get_attribute("href")
    assert here and here.startswith(f"{links['mlflow_url']}/#/experiments/")


def test_a_person_decides_in_the_dialog(
    prefect: Prefect, home: Path, undecided: str, photograph: Photograph
):
    page = prefect.page
    prefect.wait_for(undecided, "Suspended")
    prefect.open_run(undecided)
    expect(page.get_by_text(re.compile("waits for your decision")).first).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    dialog = page.get_by_role("dialog")
    evidence = prefect.field("Strategy").get_by_role("article")
    expect(evidence).to_contain_text("Automatic decision: S1")
    expect(
        evidence.get_by_role("listitem").filter(
            has_text="Teacher minus start, paired by problem: +"
        )
    ).to_be_visible()
    box = evidence.bounding_box()
    assert box and box["height"] > 300, "the evidence is not cut off"
    assert (
        "S2" in prefect.options("Strategy")
        and "stop" in prefect.options("Strategy")
        and "S3" not in prefect.options("Strategy")
    )
    evidence.evaluate("one => one.scrollIntoView({block: 'center'})")
    photograph(page, "decision")
    prefect.choose("Strategy", "S2")
    prefect.fill("Distillation steps", 3)
    prefect.fill("Your name", "Ada")
    prefect.fill("Why", "to see what unlearning gives")
    photograph(page, "decision-answer")
    prefect.submit_until(dialog.is_hidden)
    prefect.wait_for(undecided, "Running", "Completed")
    prefect.wait_for(undecided, "Completed")
    page.reload()
    expect(
        page.get_by_text(re.compile("chosen by Ada: to see what unlearning gives")).first
    ).to_be_visible()
    with closing(Registry(f"sqlite:///{home / 'registry.db'}")) as registry:
        (iteration,) = registry.iterations(prefect.api(f"/flow_runs/{undecided}")["name"])
    decision = iteration.decision
    assert decision is not None and decision.strategy == "S2"
    answer = decision.evidence["asked"]
    assert (answer["by"], answer["why"], answer["steps"], answer["automatic"]) == (
        "Ada",
        "to see what unlearning gives",
        3,
        "S1",
    )


def test_a_schedule_is_seen_at_its_deployment(prefect: Prefect, home: Path, photograph: Photograph):
    made = erpd(
        "schedule",
        "tiny",
        "--set",
        "seed=1",
        "--cron",
        "0 2 * * *",
        "--timezone",
        "Europe/Vienna",
        home=home,
    )
    assert made.returncode == 0, made.stderr
    prefect.open_deployment("iteration")
    expect(prefect.page.get_by_text("iteration-tiny", exact=True)).to_be_visible()
    photograph(prefect.page, "schedule")
    prefect.custom_run("iteration")
    expect(prefect.field("more")).to_contain_text("How many more iterations.")


# ------------------------------------------------------------------------------------------- MLflow


@pytest.fixture
def mlflow(page: Page, links: dict[str, str]) -> Page:
    """MLflow as a first-time user opens it, in its view for training and without its assistant."""
    page.goto(links["mlflow_url"])
    page.get_by_role("button", name="Model training").click()
    if (close := page.get_by_role("button", name="Close", exact=True)).is_visible():
        close.click()
    page.goto(f"{links['mlflow_url']}/#/experiments")
    page.get_by_role("link", name="erpd", exact=True).last.click()
    return page


def test_mlflow_has_the_runs_and_compares_two(
    mlflow: Page, campaigns: list[str], photograph: Photograph
):
    for name in campaigns:
        expect(mlflow.get_by_role("link", name=name)).to_be_visible()
    photograph(mlflow, "mlflow-runs")
    for name in campaigns:
        mlflow.get_by_role("row").filter(has=mlflow.get_by_role("link", name=name)).get_by_role(
            "checkbox"
        ).first.check()
    mlflow.get_by_role("button", name="Compare").click()
    for metric in ("score/test", "kl/base", "kl/old"):
        expect(mlflow.get_by_role("link", name=metric, exact=True)).to_be_visible()
    mlflow.get_by_role("link", name="kl/base", exact=True).evaluate(
        "one => one.scrollIntoView({block: 'center'})"
    )
    photograph(mlflow, "mlflow-compare")


def test_mlflow_draws_the_campaigns_side_by_side(
    prefect: Prefect, campaigns: list[str], submitted: str, photograph: Photograph
):
    """The link alone opens the charts: its user need not know which view of MLflow to choose."""
    page = prefect.page
    prefect.open_artifact(submitted, "mlflow")
    page.goto(
        page.get_by_role("link", name="All campaigns side by side").get_attribute("href") or ""
    )
    page.get_by_placeholder("Search metric charts").fill("score|kl")
    for metric in ("score/test", "kl/base"):
        expect(page.get_by_text(metric, exact=True).first).to_be_visible()
    for name in campaigns:
        expect(page.get_by_text(f"{name} (kl/base)").first).to_be_visible()
    photograph(page, "mlflow-charts")


# ------------------------------------------------------------------------------------------- report


def test_the_report_opens_with_its_table_and_figures(
    page: Page, home: Path, campaigns: list[str], photograph: Photograph
):
    errors: list[str] = []
    page.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((home / "reports" / campaigns[0] / "report.html").as_uri())
    for name in ("base", "teacher 1", "student 2"):
        expect(page.get_by_role("rowheader", name=name, exact=True).first).to_be_visible()
    widths = page.locator("img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert len(widths) >= 4 and min(widths) > 300
    assert errors == []
    page.get_by_role("rowheader", name="teacher 1", exact=True).first.evaluate(
        "one => one.scrollIntoView({block: 'center'})"
    )
    photograph(page, "report")


def test_mlflow_shows_the_report_too(
    mlflow: Page, prefect: Prefect, submitted: str, campaigns: list[str], photograph: Photograph
):
    mlflow.get_by_role("link", name=campaigns[0]).click()
    mlflow.get_by_role("tab", name="Artifacts").click()
    mlflow.get_by_text("report", exact=True).first.click()
    mlflow.get_by_text("report.html", exact=True).click()
    report = mlflow.frame_locator("iframe")
    expect(report.get_by_role("rowheader", name="teacher 1", exact=True).first).to_be_visible()
    photograph(mlflow, "mlflow-report")
