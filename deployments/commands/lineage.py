"""The commands that ask the registry: `erpd lineage`, `erpd campaigns`, `erpd compare`; and
`erpd gc`, which tidies the store by it.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from deployments.output.console import Json, checking, only_json, prepare_for
from tasks.host.home import prepare

lineage_commands = typer.Typer()
MOST = 1_000_000
"""Campaigns that may be asked for at once."""
LONGEST = 36_500
"""Days that something may be left alone for."""


@lineage_commands.command()
def lineage(
    policy: Annotated[
        str,
        typer.Argument(
            help="An artifact's identity or its beginning, CAMPAIGN:ROLE, or "
            "CAMPAIGN:ITERATION.ROLE."
        ),
    ],
    descendants: Annotated[
        bool,
        typer.Option(
            "--descendants", help="What was made from it, instead of what it was made from."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Print what a policy, or anything else in the store, was made from, as a tree: `erpd
    lineage tiny:2.student`.
    """
    with only_json(as_json) as out:
        prepare_for(policy)
        from deployments.output.lineage import print_tree
        from flows.inspect.lineage import lineage_lines, resolve_artifact
        from tasks.registry import open_registry

        with checking():
            registry = open_registry()
            found = lineage_lines(registry, resolve_artifact(registry, policy), descendants)
        if as_json:
            out(
                json.dumps(
                    {
                        "artifact": found[0].line.artifact.id,
                        "descendants": descendants,
                        "lines": [one.tree() for one in found],
                    }
                )
            )
        else:
            print_tree(found, descendants)


@lineage_commands.command()
def campaigns(
    every: Annotated[bool, typer.Option("--all", help="Those that were forgotten too.")] = False,
    last: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Only the newest so many.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the campaigns, the newest first: how far each came, its scores, and how long it took."""
    with only_json(as_json) as out:
        prepare()
        from deployments.output.lineage import campaign_table, console
        from flows.inspect.campaigns import campaign_summaries
        from tasks.registry import open_registry

        with checking():
            found = campaign_summaries(open_registry(), forgotten=every, last=last)
        if as_json:
            out(json.dumps({"campaigns": [one.tree() for one in found]}))
        elif found:
            console().print(campaign_table(found))
        else:
            print("No campaign has been run yet: `erpd run tiny` is one.")


@lineage_commands.command()
def compare(a: str, b: str, as_json: Json = False) -> None:
    """Put two campaigns side by side: what their configs say differently, what each measured,
    and A minus B of their last students.
    """
    with only_json(as_json) as out:
        prepare_for(a)
        from deployments.output.lineage import console, print_pair
        from flows.inspect.compare import compare_campaigns
        from tasks.registry import open_registry
        from tasks.store import open_store

        with checking():
            found = compare_campaigns(open_registry(), open_store(), a, b)
        if as_json:
            out(json.dumps(found.tree()))
        else:
            print_pair(found, console())


@lineage_commands.command()
def gc(
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what would go, and why what is large stays; change nothing."
        ),
    ] = False,
    forget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CAMPAIGN",
            help="Hold on to nothing of this campaign any more; may be repeated.",
        ),
    ] = None,
    older_than: Annotated[
        float,
        typer.Option(min=0, metavar="DAYS", help="Leave alone what was used within so many days."),
    ] = 7.0,
    as_json: Json = False,
) -> None:
    """Remove from the store what no campaign needs: what nothing kept was made from, builds that
    were left, damaged copies.
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
            found = clean(open_registry(), open_store(), forget or (), older_than, dry_run)
        if as_json:
            out(json.dumps(found.tree()))
        else:
            print_cleaned(found, console())


def check_days(days: float) -> None:
    """Raises ValueError for days that no calendar goes back by."""
    if not 0 <= days <= LONGEST:  # nor NaN, which the option's own bounds let through
        raise ValueError(
            f"--older-than {days:g}: days, {LONGEST:,} (a century) at most; give a number"
        )
