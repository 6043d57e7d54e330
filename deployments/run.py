"""`erpd run` and `erpd report`: a campaign in the foreground, its table, and where to look."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console

from deployments import platform
from deployments.display import Display, elapsed
from erpd_core.config import CampaignConfig, FileProblems
from tasks.datasets import draw_problems, read_problems
from tasks.home import home
from tasks.policies import import_policy
from tasks.runtime import check_runtime

Checking = Callable[[], AbstractContextManager[None]]


def run_in_foreground(config: CampaignConfig, recipe: str, console: Console, checking: Checking) -> dict[str, Any]:
    """Run a campaign and return the contract's JSON object. `checking` turns what is wrong with the input into exit code 2."""
    started = time.monotonic()
    with checking():
        check_inputs(config)
    with platform.prefect_api() as prefect_url:  # the server starts while the slow imports below run
        from flows.campaign import CampaignResult, campaign_id, run_campaign
        from flows.stages import events_path
        from tasks.resources import stop_ray

        name = campaign_id(config)
        console.print(f"[bold]{name}[/]  {config.description}", highlight=False)
        console.print(f"Prefect {prefect_url} (while this runs)   ERPD_HOME {home()}", style="dim", highlight=False)
        platform.wait_for_prefect(prefect_url)
        try:
            with Display(events_path(name), console):
                result: CampaignResult = run_campaign(config, recipe)
        finally:
            stop_ray()
    report = report_campaign(name, console)
    console.print(f"\nReport   {report}", highlight=False)
    console.print("Browse   erpd up   (Prefect's runs and MLflow's charts)", highlight=False)
    console.print(f"took {elapsed(started)}", style="dim", highlight=False)
    return contract(result, report)


def check_inputs(config: CampaignConfig) -> None:
    """Raises ValueError for a runtime, model or data file that cannot work here, before any server starts."""
    check_runtime(config.runtime)
    import_policy(config.model)
    for name, source in {"prompts": config.prompts, "validation": config.evaluation.validation, **config.evaluation.benchmarks}.items():
        draw_problems(name, source, 0)
        if isinstance(source, FileProblems):
            read_problems(source, 0)


def contract(result: Any, report: Path) -> dict[str, Any]:
    """The JSON object that `erpd run --json` prints."""
    up = platform.running()
    hidden = {"teacher_policy", "student_policy", "student_validation"}
    return {
        "campaign": result.campaign,
        "status": result.status,
        "recipe": result.recipe,
        "base": result.base.model_dump(mode="json"),
        "iterations": [one.model_dump(mode="json", exclude=hidden) for one in result.iterations],
        "mlflow_url": f"{up.mlflow.url}{result.tracked}" if up else f"sqlite:///{home() / 'mlflow' / 'mlflow.db'}",
        "report": str(report),
    }


def report_campaign(campaign: str, console: Console) -> Path:
    """Print a campaign's table and write its report; the path of the HTML file. Raises LookupError for a campaign that is not known."""
    from flows.report import rich_table, table_rows, write_report
    from flows.stages import open_registry, reports_path
    from tasks.store import Store

    registry = open_registry()
    found = registry.campaign(campaign)
    path = write_report(registry, Store(home() / "store"), found.id, reports_path(found.id))
    console.print(rich_table(table_rows(registry, found.id)))
    return path
