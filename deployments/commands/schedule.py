"""`erpd schedule`: have a deployment run again and again, with parameters of its own."""

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
"""Hours between two runs."""


@scheduling.command()
def schedule(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe; what is scheduled is shown when absent.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change one value of the recipe."),
    ] = None,
    deployment: Annotated[
        str, typer.Option(help="iteration: one more each time; campaign: begin or finish it.")
    ] = "iteration",
    cron: Annotated[
        str | None, typer.Option(help="When, as cron says it: '0 2 * * *' is every night at two.")
    ] = None,
    every: Annotated[
        float | None, typer.Option(min=0.02, help="Or: hours between two runs.")
    ] = None,
    timezone: Annotated[str, typer.Option(help="Of the cron times.")] = "UTC",
    remove: Annotated[str | None, typer.Option(metavar="NAME", help="Remove a schedule.")] = None,
) -> None:
    """Schedule iterations or campaigns on the local platform (`erpd up`); runs that meet queue
    up.
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
    """Speak to the platform's Prefect, or to the one the environment names. Raises ValueError
    when there is none.
    """
    if platform is not None:
        os.environ["PREFECT_API_URL"] = platform.links["prefect_api"]
    elif not os.environ.get("PREFECT_API_URL"):
        raise ValueError(
            "schedule: nothing runs that could keep it; start the platform first: erpd up"
        )


def check_schedule(
    deployment: str,
    recipe: str,
    changes: Sequence[str],
    cron: str | None,
    every: float | None,
    timezone: str,
) -> None:
    """Raises ValueError for what cannot be scheduled."""
    from flows.recipes.load import load_recipe

    if deployment not in ("iteration", "campaign"):
        raise ValueError(
            f"--deployment {deployment}: schedules are for iteration and campaign; choose one"
        )
    if (cron is None) == (every is None):
        raise ValueError(
            "schedule: say when, by --cron '0 2 * * *' or by --every HOURS (one of them)"
        )
    if every is not None and not every <= LONGEST:
        raise ValueError(
            f"--every {every:g}: hours between two runs, {LONGEST:,} (a year) at most; give a "
            f"number"
        )
    if timezone not in zoneinfo.available_timezones():
        raise ValueError(f"--timezone {timezone}: is not known; UTC or Europe/Vienna, for example")
    load_recipe(recipe, changes)


def add_schedule(
    deployment: str,
    recipe: str,
    changes: Sequence[str],
    cron: str | None,
    every: float | None,
    timezone: str,
) -> str:
    """The schedule's name. One of the same name is replaced.

    Raises ValueError for a time that is none, before anything is told, and LookupError where
    nothing is deployed.
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
            f"--cron {cron!r}: is not five fields of cron (minute hour day month weekday); '0 2 * "
            f"* *' is every night"
        ) from error
    name = f"{deployment}-{recipe.rpartition('/')[2].partition('.')[0]}".lower().replace("_", "-")
    with get_client(sync_client=True) as client:
        found = next((one for one in deployed(client) if one.name == deployment), None)
        if found is None:
            raise LookupError(
                f"--deployment {deployment}: Prefect has none of that name; start the platform "
                f"anew: erpd down, erpd up"
            )
        for other in found.schedules:
            if other.slug == name:
                client.delete_deployment_schedule(found.id, other.id)
        client.create_deployment_schedules(
            found.id, [(when, True)], parameters=parameters, slug=name
        )
    return name


def deployed(client: SyncPrefectClient) -> list[DeploymentResponse]:
    """Our deployments, by name. Prefect is asked: importing the flows would bring torch and
    transformers with them.
    """
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=["erpd"]))
    return sorted(client.read_deployments(deployment_filter=ours), key=lambda one: one.name)


def schedules() -> list[tuple[str, Any, Any]]:
    """(deployment, its id, schedule) of every one."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        return [
            (one.name, one.id, schedule) for one in deployed(client) for schedule in one.schedules
        ]


def remove_schedule(name: str) -> str:
    """Raises LookupError when there is none of that name."""
    from prefect import get_client

    for _, deployment, one in (known := schedules()):
        if one.slug == name:
            with get_client(sync_client=True) as client:
                client.delete_deployment_schedule(deployment, one.id)
            return name
    raise LookupError(
        f"--remove {name}: there is no such schedule; known: "
        f"{', '.join(str(one.slug) for _, _, one in known) or 'none'}"
    )


def show_schedules(console: Console) -> None:
    table = Table("schedule", "deployment", "when", "parameters", "on")
    for deployment, _, one in schedules():
        when = getattr(one.schedule, "cron", None) or f"every {one.schedule.interval}"
        cells = (
            one.slug or one.id,
            deployment,
            when,
            one.parameters,
            "yes" if one.active else "no",
        )
        # others may have made them, in Prefect's UI
        table.add_row(*(Text(one_line(str(cell))) for cell in cells))
    console.print(table)
