"""`erpd schedule`: run a deployment at set times, with its own parameters."""

from __future__ import annotations

import os
import zoneinfo
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deployments.output.console import checking
from tasks.host.home import prepare
from tasks.untrusted.display_text import one_line

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

scheduling = typer.Typer()
LONGEST = 8760
"""Largest `--every`, in hours: one year."""


@scheduling.command()
def schedule(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe. Default: show the existing schedules.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change one value of the recipe."),
    ] = None,
    deployment: Annotated[
        str,
        typer.Option(
            help="iteration: run one more iteration each time; campaign: start or finish it."
        ),
    ] = "iteration",
    cron: Annotated[
        str | None,
        typer.Option(help="When, in cron format: '0 2 * * *' is every night at two."),
    ] = None,
    every: Annotated[
        float | None, typer.Option(min=0.02, help="Instead of --cron: hours between two runs.")
    ] = None,
    timezone: Annotated[str, typer.Option(help="Time zone of the cron times.")] = "UTC",
    remove: Annotated[str | None, typer.Option(metavar="NAME", help="Remove a schedule.")] = None,
) -> None:
    """Schedule iterations or campaigns on the local platform (`erpd up`).

    Runs that overlap are queued.
    """
    from deployments.servers import local_platform

    with checking():
        if remove is None and recipe is not None:
            check_schedule(deployment, recipe, set_ or (), cron, every, timezone)
        connect(local_platform.running())
        prepare()
        if remove is not None:
            print(f"removed {remove_schedule(remove)}")
        elif recipe is None:
            show_schedules(Console())
        else:
            print(
                f"scheduled {add_schedule(deployment, recipe, set_ or (), cron, every, timezone)}"
            )


def connect(platform: Any) -> None:
    """Point Prefect's client at the platform's server, else at the one PREFECT_API_URL names.

    **Raises:** ValueError if there is neither.
    """
    if platform is not None:
        os.environ["PREFECT_API_URL"] = platform.links["prefect_api"]
    elif not os.environ.get("PREFECT_API_URL"):
        raise ValueError(
            "schedule: no Prefect server keeps schedules here; start the platform first: erpd up"
        )


def check_schedule(
    deployment: str,
    recipe: str,
    changes: Sequence[str],
    cron: str | None,
    every: float | None,
    timezone: str,
) -> None:
    """Check the recipe and the times of a schedule. Raises ValueError if one is not valid."""
    from flows.recipes.load import load_recipe

    if deployment not in ("iteration", "campaign"):
        raise ValueError(
            f"--deployment {deployment}: only iteration and campaign have schedules; choose one"
        )
    if (cron is None) == (every is None):
        raise ValueError(
            "schedule: say when with --cron '0 2 * * *' or --every HOURS (one of them)"
        )
    if every is not None and not every <= LONGEST:
        raise ValueError(
            f"--every {every:g}: hours between two runs, at most {LONGEST:,} (a year); give a "
            f"number"
        )
    if timezone not in zoneinfo.available_timezones():
        raise ValueError(f"--timezone {timezone}: not known; use UTC or Europe/Vienna, for example")
    load_recipe(recipe, changes)


def add_schedule(
    deployment: str,
    recipe: str,
    changes: Sequence[str],
    cron: str | None,
    every: float | None,
    timezone: str,
) -> str:
    """Create a schedule; it replaces one of the same name.

    **Returns:** The schedule's name.
    **Raises:** ValueError if `cron` is not valid, before Prefect is called; LookupError if Prefect
        has no such deployment.
    """
    from prefect import get_client
    from prefect.client.schemas.schedules import SCHEDULE_TYPES, CronSchedule, IntervalSchedule

    kind = (
        {"kind": "file", "path": recipe}
        if recipe.endswith((".yaml", ".yml"))
        else {"kind": "recipe", "recipe": recipe}
    )
    parameters = {"what": kind | {"changes": list(changes)}}
    try:
        when: SCHEDULE_TYPES = (
            CronSchedule(cron=cron, timezone=timezone)
            if cron
            else IntervalSchedule(interval=timedelta(hours=every or 0))
        )
    except ValueError as error:
        raise ValueError(
            f"--cron {cron!r}: must have cron's five fields (minute hour day month weekday); '0 2 "
            f"* * *' is every night at two"
        ) from error
    name = f"{deployment}-{recipe.rpartition('/')[2].partition('.')[0]}".lower().replace("_", "-")
    with get_client(sync_client=True) as client:
        target = next((each for each in deployed(client) if each.name == deployment), None)
        if target is None:
            raise LookupError(
                f"--deployment {deployment}: not known to Prefect; restart the platform: erpd "
                f"down, erpd up"
            )
        for other in target.schedules:
            if other.slug == name:
                client.delete_deployment_schedule(target.id, other.id)
        client.create_deployment_schedules(
            target.id, [(when, True)], parameters=parameters, slug=name
        )
    return name


def deployed(client: SyncPrefectClient) -> list[DeploymentResponse]:
    """Return the project's deployments, sorted by name.

    They are read from Prefect: importing the flows would import torch and transformers too.
    """
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=["erpd"]))
    deployments = client.read_deployments(deployment_filter=ours)
    return sorted(deployments, key=lambda deployment: deployment.name)


def schedules() -> list[tuple[str, Any, Any]]:
    """Return (deployment name, deployment id, schedule) for every schedule."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        return [
            (deployment.name, deployment.id, schedule)
            for deployment in deployed(client)
            for schedule in deployment.schedules
        ]


def remove_schedule(name: str) -> str:
    """Remove the schedule `name` and return its name. Raises LookupError if there is none."""
    from prefect import get_client

    for _, deployment, entry in (known := schedules()):
        if entry.slug == name:
            with get_client(sync_client=True) as client:
                client.delete_deployment_schedule(deployment, entry.id)
            return name
    raise LookupError(
        f"--remove {name}: there is no such schedule; known: "
        f"{', '.join(str(entry.slug) for _, _, entry in known) or 'none'}"
    )


def show_schedules(console: Console) -> None:
    """Print a table of all schedules."""
    table = Table("schedule", "deployment", "when", "parameters", "on")
    for deployment, _, entry in schedules():
        when = getattr(entry.schedule, "cron", None) or f"every {entry.schedule.interval}"
        cells = (
            entry.slug or entry.id,
            deployment,
            when,
            entry.parameters,
            "yes" if entry.active else "no",
        )
        # a user may have made them in Prefect's UI: the texts are not trusted
        table.add_row(*(Text(one_line(str(cell))) for cell in cells))
    console.print(table)
