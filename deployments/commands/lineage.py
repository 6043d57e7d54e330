"""Commands over the registry and the store: `erpd lineage`, `campaigns`, `compare` and `gc`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from deployments.output.console import Json, checking, only_json, prepare_for
from tasks.host.home import prepare

lineage_commands = typer.Typer()
MOST = 1_000_000
"""Largest `--last`, in campaigns."""
LONGEST = 36_500
"""Largest `--older-than`, in days."""


@lineage_commands.command()
def lineage(
    policy: Annotated[
        str,
        typer.Argument(
            help="An artifact's identity or a prefix of it, CAMPAIGN:ROLE, or "
            "CAMPAIGN:ITERATION.ROLE."
        ),
    ],
    descendants: Annotated[
        bool,
        typer.Option(
            "--descendants", help="Show what was made from it instead of what it was made from."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Print what a policy or any other artifact was made from, as a tree.

    **Example:** `erpd lineage tiny:2.student`.
    """
    with only_json(as_json) as out:
        prepare_for(policy)
        from deployments.output.lineage import print_tree
        from flows.inspect.lineage import lineage_lines, resolve_artifact
        from tasks.registry import open_registry

        with checking():
            registry = open_registry()
            lines = lineage_lines(registry, resolve_artifact(registry, policy), descendants)
        if as_json:
            out(
                json.dumps(
                    {
                        "artifact": lines[0].line.artifact.id,
                        "descendants": descendants,
                        "lines": [line.tree() for line in lines],
                    }
                )
            )
        else:
            print_tree(lines, descendants)


@lineage_commands.command()
def campaigns(
    every: Annotated[bool, typer.Option("--all", help="Include forgotten campaigns.")] = False,
    last: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Only the newest N campaigns.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the campaigns, newest first, with their progress, scores and duration."""
    with only_json(as_json) as out:
        prepare()
        from deployments.output.lineage import campaign_table, console
        from flows.inspect.campaigns import campaign_summaries
        from tasks.registry import open_registry

        with checking():
            summaries = campaign_summaries(open_registry(), forgotten=every, last=last)
        if as_json:
            out(json.dumps({"campaigns": [summary.tree() for summary in summaries]}))
        elif summaries:
            console().print(campaign_table(summaries))
        else:
            print("No campaigns yet; start one: erpd run tiny")


@lineage_commands.command()
def compare(a: str, b: str, as_json: Json = False) -> None:
    """Compare two campaigns: their config differences, results, and last students (A minus B)."""
    with only_json(as_json) as out:
        prepare_for(a)
        from deployments.output.lineage import console, print_pair
        from flows.inspect.compare import compare_campaigns
        from tasks.registry import open_registry
        from tasks.store import open_store

        with checking():
            pair = compare_campaigns(open_registry(), open_store(), a, b)
        if as_json:
            out(json.dumps(pair.tree()))
        else:
            print_pair(pair, console())


@lineage_commands.command()
def gc(
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print what would be removed, and why the largest items are kept; change nothing.",
        ),
    ] = False,
    forget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CAMPAIGN",
            help="Keep nothing for this campaign any longer; may be repeated.",
        ),
    ] = None,
    older_than: Annotated[
        float,
        typer.Option(min=0, metavar="DAYS", help="Keep everything used in the last DAYS days."),
    ] = 7.0,
    as_json: Json = False,
) -> None:
    """Remove from the store what no campaign needs.

    That is every artifact that nothing kept was made from, abandoned builds, and damaged copies.
    """
    with only_json(as_json) as out:
        with checking():
            check_days(older_than)
        prepare_for(forget[0] if forget else None)
        from deployments.output.lineage import console, print_cleaned
        from flows.inspect.gc import clean
        from tasks.registry import open_registry
        from tasks.store import open_store

        with checking():
            cleaned = clean(open_registry(), open_store(), forget or (), older_than, dry_run)
        if as_json:
            out(json.dumps(cleaned.tree()))
        else:
            print_cleaned(cleaned, console())


def check_days(days: float) -> None:
    """Check that `--older-than` is between 0 and LONGEST days. Raises ValueError otherwise."""
    if not 0 <= days <= LONGEST:  # rejects NaN too, which the option's own bounds accept
        raise ValueError(
            f"--older-than {days:g}: out of range; give a number of days from 0 to {LONGEST:,} "
            f"(a century)"
        )
