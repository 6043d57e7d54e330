"""`erpd run` and `erpd report`: a campaign or a study in the foreground, its table, and where to
look.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from deployments.output.progress_bars import Display, elapsed
from deployments.servers import local_platform
from erpd_core.config import CampaignConfig, RuntimeConfig
from tasks.host.home import home
from tasks.host.services import mlflow_ui, mlflow_url

if TYPE_CHECKING:
    from flows.recipes.studies import Study

STAGE_MODULES = (
    "tasks.engines.hf",
    "tasks.execution.prefect_tasks",
    "tasks.training.student",
    "tasks.training.teacher",
)
"""What most stages import, slowly: Ray's workers import it while the campaign starts."""
Ready = Callable[[str, str, Mapping[str, RuntimeConfig]], None]
"""Takes a run's name, its description, and the runtime of each of its campaigns."""


def run_in_foreground(config: CampaignConfig, recipe: str, console: Console) -> dict[str, Any]:
    """Run a campaign whose inputs were checked, and return the contract's JSON object."""
    started = time.monotonic()
    with _servers(console) as ready:
        from flows.campaign import CampaignResult, campaign_id, run_campaign
        from flows.steps.recorder import events_path

        name = campaign_id(config)
        ready(name, config.description, {name: config.runtime})
        with Display({events_path(name): ""}, console):
            result: CampaignResult = run_campaign(config, recipe)
    report = show_campaign(name, console)
    _farewell(console, report, started)
    return contract(result, report)


def run_study_in_foreground(study: Study, console: Console) -> dict[str, Any]:
    """Run every arm of a study; the contract's JSON object, each iteration with its `arm`, and
    the campaigns of the arms.
    """
    started = time.monotonic()
    with _servers(console) as ready:
        from flows.ablation import StudyResult, run_study, study_id
        from flows.campaign import campaign_id
        from flows.steps.recorder import events_path

        name = study_id(study)
        ready(
            name,
            study.description,
            {campaign_id(arm.config): arm.config.runtime for arm in study.arms},
        )
        headings = {
            arm.name: f"{arm.name} ({number} of {len(study.arms)})"
            for number, arm in enumerate(study.arms, 1)
        }
        arms = {events_path(campaign_id(arm.config)): headings[arm.name] for arm in study.arms}
        with Display(arms, console):
            result: StudyResult = run_study(study)
    report = show_study(name, study, console)
    _farewell(console, report, started)
    whole = {arm: contract(one, report) for arm, one in result.arms.items()}
    first = next(iter(whole.values()))
    iterations = [
        {"arm": arm, **iteration} for arm, one in whole.items() for iteration in one["iterations"]
    ]
    return {
        **first,
        "campaign": name,
        "iterations": iterations,
        "arms": {arm: one["campaign"] for arm, one in whole.items()},
    }


@contextmanager
def _servers(console: Console) -> Iterator[Ready]:
    """A Prefect server for the time of a run, and Ray stopped after it. Yields what says the run's
    name and waits for the server.

    One that outlives this process is told to notice should the process be killed.
    """
    lasting = "PREFECT_API_URL" in os.environ
    # the server starts while the slow imports of the caller run
    with local_platform.prefect_api() as prefect_url:
        from deployments.servers.dead_runs import watch_for_dead_runs
        from tasks.execution.ray_cluster import start_ahead, stop_ray

        def ready(name: str, description: str, campaigns: Mapping[str, RuntimeConfig]) -> None:
            if runtime := _first_to_do(campaigns):
                start_ahead(runtime, STAGE_MODULES)
            console.print(f"[bold]{name}[/]  {description}", highlight=False)
            console.print(
                f"Prefect {prefect_url} (while this runs)   ERPD_HOME {home()}",
                style="dim",
                highlight=False,
            )
            local_platform.wait_for_prefect(prefect_url)
            if lasting:
                asyncio.run(watch_for_dead_runs())

        try:
            yield ready
        finally:
            stop_ray()


def _first_to_do(campaigns: Mapping[str, RuntimeConfig]) -> RuntimeConfig | None:
    """The runtime of the first campaign that is not known to be completed: of one that is, every
    stage may well be stored.
    """
    from tasks.registry import open_registry

    completed = {
        campaign.id for campaign in open_registry().campaigns() if campaign.status == "completed"
    }
    return next((runtime for name, runtime in campaigns.items() if name not in completed), None)


def _farewell(console: Console, report: Path, started: float) -> None:
    console.print(f"\nReport   {report}", highlight=False)
    console.print(
        "Browse   erpd up   (Prefect's pages, where runs are asked for too, and MLflow's charts)",
        highlight=False,
    )
    console.print(f"took {elapsed(started)}", style="dim", highlight=False)


def contract(result: Any, report: Path) -> dict[str, Any]:
    """The JSON object that `erpd run --json` prints."""
    ui = mlflow_ui()
    hidden = {"teacher_policy", "student_policy", "student_validation"}
    return {
        "campaign": result.campaign,
        "status": result.status,
        "recipe": result.recipe,
        "base": result.base.model_dump(mode="json"),
        "iterations": [one.model_dump(mode="json", exclude=hidden) for one in result.iterations],
        "mlflow_url": f"{ui}{result.tracked}" if ui else mlflow_url(),
        "report": str(report),
    }


def report_campaign(campaign: str, console: Console) -> Path:
    """Write a campaign's report and print its table; the path of the HTML file. Raises
    LookupError for a campaign that is not known.
    """
    from flows.reports.campaign import write_report
    from flows.steps.recorder import reports_path
    from tasks.registry import open_registry
    from tasks.store import open_store

    registry = open_registry()
    found = registry.campaign(campaign).id
    write_report(registry, open_store(), found, reports_path(found))
    return show_campaign(found, console)


def show_campaign(campaign: str, console: Console) -> Path:
    """Print the table of a campaign whose report is written; the path of that."""
    from flows.reports.results import rich_table, table_rows
    from flows.steps.recorder import reports_path
    from tasks.registry import open_registry

    console.print(rich_table(table_rows(open_registry(), campaign)))
    return reports_path(campaign) / "report.html"


def report_study(name: str, study: Study, console: Console) -> Path:
    """Write a study's report and print its table; the path of the HTML file."""
    from flows.ablation import write_report_of
    from tasks.store import open_store

    write_report_of(name, study, open_store())
    return show_study(name, study, console)


def show_study(name: str, study: Study, console: Console) -> Path:
    """Print the table of a study whose report is written; the path of that."""
    from rich.markdown import Markdown

    from flows.ablation import known_arms
    from flows.reports.study_table import entries, study_markdown
    from flows.steps.recorder import reports_path
    from tasks.registry import open_registry

    console.print(Markdown(study_markdown(entries(open_registry(), known_arms(study), study))))
    return reports_path(name) / "report.html"


def report_efficiency(campaigns: list[str]) -> Path:
    """Write the KL-efficiency page of several campaigns; its path. Raises LookupError for one
    that is not known.
    """
    from flows.reports.study import write_efficiency_page
    from flows.steps.recorder import reports_path
    from tasks.registry import open_registry

    return write_efficiency_page(
        open_registry(), {name: name for name in campaigns}, reports_path("efficiency")
    )
