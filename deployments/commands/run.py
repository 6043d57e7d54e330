"""`erpd run`: run a campaign or a study in the foreground, with progress, tables and links."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from deployments.commands.report import show_campaign, show_study
from deployments.output.progress_bars import Display, elapsed
from deployments.servers import local_platform
from erpd_core.config import RuntimeConfig
from flows.steps.preflight import PreparedCampaign, PreparedStudy
from tasks.host.home import events_path, home
from tasks.host.imports import fast_imports
from tasks.host.services import mlflow_ui, mlflow_url
from tasks.registry import open_registry

STAGE_MODULES = (
    "tasks.engines.hf",
    "tasks.execution.prefect_tasks",
    "tasks.training.student",
    "tasks.training.teacher",
)
"""Slow imports that most stages share. Ray's workers import them while the campaign starts."""


def run_campaign_in_foreground(
    prepared: PreparedCampaign, recipe: str, console: Console
) -> dict[str, Any]:
    """Run a campaign with progress on the console.

    **Returns:** The JSON object of `erpd run --json`.
    """
    started = time.monotonic()
    _title(console, prepared.id, prepared.config.description)
    with _servers(console, [prepared], "flows.campaign"):
        from flows.campaign import CampaignResult, run_campaign

        with Display({events_path(prepared.id): ""}, console):
            result: CampaignResult = run_campaign(prepared, recipe)
    report = show_campaign(prepared.id, console)
    _say_where_to_look(console, report, started)
    return result_json(result, report)


def run_study_in_foreground(prepared: PreparedStudy, console: Console) -> dict[str, Any]:
    """Run every arm of a study with progress on the console.

    **Returns:** The JSON object of the first arm, except that `iterations` holds those of all arms,
        each with its `arm`. It also has `arms`, a mapping arm -> campaign.
    """
    started = time.monotonic()
    _title(console, prepared.id, prepared.study.description)
    with _servers(console, list(prepared.arms.values()), "flows.ablation"):
        from flows.ablation import StudyResult, run_study

        count = len(prepared.arms)
        headings = {
            events_path(campaign): f"{arm} ({number} of {count})"
            for number, (arm, campaign) in enumerate(prepared.campaigns.items(), 1)
        }
        with Display(headings, console):
            result: StudyResult = run_study(prepared)
    report = show_study(prepared.id, prepared.study, prepared.campaigns, console)
    _say_where_to_look(console, report, started)
    results = {arm: result_json(campaign, report) for arm, campaign in result.arms.items()}
    first = next(iter(results.values()))
    iterations = [
        {"arm": arm, **iteration}
        for arm, arm_result in results.items()
        for iteration in arm_result["iterations"]
    ]
    campaigns = {arm: arm_result["campaign"] for arm, arm_result in results.items()}
    return {**first, "campaign": prepared.id, "iterations": iterations, "arms": campaigns}


def _title(console: Console, name: str, description: str) -> None:
    console.print(f"[bold]{name}[/]  {description}", highlight=False)


@contextmanager
def _servers(
    console: Console, campaigns: Sequence[PreparedCampaign], flow_module: str
) -> Iterator[None]:
    """Context manager that provides a Prefect server during a run and stops Ray after it.

    Prefect's server, Ray and its workers start while this process imports the flow. A server that
    outlives this process gets an automation that marks the run Crashed if the process is killed.
    """
    outlives_us = "PREFECT_API_URL" in os.environ
    with local_platform.prefect_api() as prefect_url:
        from tasks.execution.ray_cluster import start_with_imports, stop_ray

        importing = threading.Thread(
            target=importlib.import_module, args=(flow_module,), daemon=True
        )
        importing.start()
        try:
            with fast_imports():
                if runtime := _first_unfinished(campaigns):
                    start_with_imports(runtime, STAGE_MODULES)
                importing.join()
            local_platform.wait_for_prefect(prefect_url)
            console.print(
                f"Prefect {prefect_url} (while this runs)   ERPD_HOME {home()}",
                style="dim",
                highlight=False,
            )
            if outlives_us:
                from deployments.servers.dead_runs import watch_for_dead_runs

                asyncio.run(watch_for_dead_runs())
            with nullcontext() if outlives_us else _no_heartbeats():
                yield
        finally:
            stop_ray()


def _no_heartbeats() -> AbstractContextManager[Any]:
    """Context manager in which flows send none: the server stops with us, and would not miss them.

    Each flow takes up to a second to end its heartbeats.
    """
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})


def _first_unfinished(campaigns: Sequence[PreparedCampaign]) -> RuntimeConfig | None:
    """Return the runtime of the first campaign that is not completed, else None.

    All stages of a completed campaign may be in the store; it may need no Ray.
    """
    completed = {row.id for row in open_registry().campaigns() if row.status == "completed"}
    return next(
        (campaign.config.runtime for campaign in campaigns if campaign.id not in completed), None
    )


def _say_where_to_look(console: Console, report: Path, started: float) -> None:
    console.print(f"\nReport   {report}", highlight=False)
    console.print(
        "Browse   erpd up   (Prefect's pages, where you can also start runs, and MLflow's charts)",
        highlight=False,
    )
    console.print(f"took {elapsed(started)}", style="dim", highlight=False)


def result_json(result: Any, report: Path) -> dict[str, Any]:
    """Return the JSON object that `erpd run --json` prints."""
    ui = mlflow_ui()
    return {
        "campaign": result.campaign,
        "status": result.status,
        "recipe": result.recipe,
        "base": result.base.model_dump(mode="json"),
        "iterations": [iteration.model_dump(mode="json") for iteration in result.iterations],
        "mlflow_url": f"{ui}{result.tracked}" if ui else mlflow_url(),
        "report": str(report),
    }
