"""What the commands of `deployments/commands/lineage.py` print."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime

import yaml
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from flows.inspect.campaigns import Overview
from flows.inspect.compare import ABSENT, CampaignPair, Difference, Pair
from flows.inspect.gc import Cleaned, total
from flows.inspect.lineage import LineageLine, describe_figures
from flows.reports.results import PolicyRow, interval, nats, percent, points
from tasks.untrusted.display_text import one_line

WIDE = 160


def console() -> Console:
    """As wide as the terminal; where the output goes elsewhere, wide enough for every table."""
    return Console() if sys.stdout.isatty() else Console(width=WIDE)


def print_tree(found: Sequence[LineageLine], descendants: bool) -> None:
    """Rich cuts a tree's lines at the console's width, so that is more than any line has; the
    terminal wraps them.
    """
    Console(width=10_000).print(lineage_tree(found, descendants))


def lineage_tree(found: Sequence[LineageLine], descendants: bool = False) -> Tree:
    """The lines as a tree; a branch that stands further up with everything below it is not
    opened again.
    """
    root = Tree(_label(found[0], descendants))
    opened = [root]
    for one in found[1:]:
        del opened[one.line.depth :]
        opened.append(opened[-1].add(_label(one, descendants)))
    return root


def _label(one: LineageLine, descendants: bool) -> Text:
    """With what it was to the line above or, of a descendant, what that one was to it."""
    artifact = one.line.artifact
    role = f"{'as ' if descendants else ''}{one.line.role}:" if one.line.role else ""
    label = Text.assemble((one_line(role), "dim"), " " if role else "", one_line(artifact.id))
    if not artifact.id.startswith(artifact.kind):
        label.append(f" ({artifact.kind})")
    if artifact.removed_at:
        label.append(" (removed)", "yellow")
    if one.line.repeated:
        return label.append(" (above)", "dim")
    figures = [
        *describe_figures(one.figures),
        *([took(seconds)] if (seconds := artifact.seconds or 0.0) >= 1 else []),
    ]
    label.append(f"  {one_line(', '.join(figures))}" if figures else "", "cyan")
    if one.decision:
        label.append(f"  {one.decision.strategy}: {one_line(one.decision.reason)}", "green")
    return label


def campaign_table(found: Sequence[Overview]) -> Table:
    table = _table(
        "Mean score over the benchmarks in % with its 95 % interval; KL in nats per token"
    )
    for name in ("campaign", "recipe", "status"):
        table.add_column(name, overflow="fold")
    for name in ("done", "base", "last student", "KL base", "started", "took"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        campaign, student = one.campaign, one.student
        status = f"{campaign.status} (forgotten)" if campaign.forgotten_at else campaign.status
        done = f"{one.done}/{one.asked}" if one.asked else str(one.done)
        base = percent(one.base.mean) if one.base else "–"
        measured = [_mean(student), nats(student.report.kl_base)] if student else ["–", "–"]
        times = [f"{campaign.created_at.astimezone():%Y-%m-%d}", took(one.seconds)]
        cells = [campaign.id, campaign.recipe, status, done, base, *measured, *times]
        table.add_row(*(_plain(cell) for cell in cells))
    return table


def _mean(row: PolicyRow) -> str:
    low, high = row.mean_ci95
    return f"{percent(row.mean)} [{percent(low)}, {percent(high)}]"


# ------------------------------------------------------------------------------------ two campaigns


def print_pair(found: CampaignPair, console: Console) -> None:
    for side, one in (("A", found.a), ("B", found.b)):
        console.print(_plain(f"{side}  {one.id}  ({one.status})"), highlight=False)
    if found.config:
        table = _table("What their configs say differently")
        for name in ("key", "A", "B"):
            table.add_column(name, overflow="fold")
        for key, values in found.config.items():
            table.add_row(*(_plain(cell) for cell in (key, *(_value(value) for value in values))))
        console.print(table)
    else:
        console.print("\nTheir configs are the same.")
    console.print(_pair_table(found.pairs))
    for difference in found.differences:
        console.print(
            _plain(_difference(difference, found.students)), highlight=False, soft_wrap=True
        )
    if not found.differences:
        console.print("There are no students of both on one benchmark to compare.")


def _pair_table(pairs: Sequence[Pair]) -> Table:
    table = _table("Scores in % with their 95 % interval; KL in nats per token")
    for name in ("policy", "benchmark"):
        table.add_column(name, overflow="fold")
    for name in ("A", "B", "KL old, A", "B", "KL base, A", "B"):
        table.add_column(name, justify="right")
    for pair in pairs:
        rows = (pair.a, pair.b)
        old = [nats(row.report.kl_old) if row else "–" for row in rows]
        base = [nats(row.report.kl_base) if row else "–" for row in rows]
        benchmarks = dict.fromkeys(name for row in rows if row for name in row.report.scores)
        for line, benchmark in enumerate(benchmarks):
            scores = [_score(row, benchmark) for row in rows]
            cells = (
                ("", benchmark, *scores) if line else (pair.name, benchmark, *scores, *old, *base)
            )
            table.add_row(*(_plain(cell) for cell in cells))
    return table


def _score(row: PolicyRow | None, benchmark: str) -> str:
    score = row.report.scores.get(benchmark) if row else None
    return f"{percent(score.avg)} {interval(score)}" if score else "–"


def _difference(one: Difference, students: Sequence[PolicyRow | None]) -> str:
    names = " minus ".join(
        f"{side}'s {row.name}" for side, row in zip("AB", students, strict=True) if row
    )
    low, high = one.ci95
    said = (
        f"{one.benchmark}: {names} is {points(one.difference)} points (95 % {points(low)} to "
        f"{points(high)})"
    )
    if one.paired:
        verdict = "beyond noise" if one.paired["beyond_noise"] else "within noise"
        return (
            f"{said}, p = {one.paired['p_value']:.3g}: {verdict}, paired over "
            f"{one.paired['problems']} problems"
        )
    return f"{said}, taken as independent: {one.why_not}"


def _value(value: object) -> str:
    if value == ABSENT:
        return "–"
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
        .removesuffix("...\n")
        .strip()
    )


# ----------------------------------------------------------------------------------------------- gc


def print_cleaned(found: Cleaned, console: Console) -> None:
    for campaign in found.forgotten:
        console.print(
            _plain(f"{campaign}: {'would be forgotten' if found.dry_run else 'forgotten'}"),
            highlight=False,
        )
    if found.went:
        table = _table("What would go" if found.dry_run else "What went")
        for name in ("kind", "number", "size", "the largest"):
            table.add_column(
                name, justify="right" if name in ("number", "size") else "left", overflow="fold"
            )
        for kind, items in found.by_kind.items():
            table.add_row(
                kind,
                str(len(items)),
                decimal(total(items)),
                _plain(max(items, key=lambda item: item.size).id),
            )
        console.print(table)
    if found.largest:
        table = _table("The largest that stay, and why")
        for name in ("what", "size", "why"):
            table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
        for one in found.largest:
            table.add_row(_plain(one.item.id), decimal(one.item.size), _plain(one.why))
        console.print(table)
    for item in found.spared:
        console.print(_plain(f"spared, for it came into use meanwhile: {item.id}"), highlight=False)
    since = datetime.fromtimestamp(found.plan.since).strftime("%Y-%m-%d %H:%M")
    console.print(
        f"Nothing used since {since} goes ({found.plan.because}).", highlight=False, soft_wrap=True
    )
    stays = decimal(total([one.item for one in found.plan.stays]))
    if found.dry_run:
        console.print(
            f"Would free {decimal(total(found.went))}, and {stays} would stay. Nothing was "
            f"changed.",
            highlight=False,
        )
    else:
        console.print(f"Freed {decimal(total(found.went))}; {stays} stay.", highlight=False)


# -------------------------------------------------------------------------------------------- words


def _plain(text: str) -> Text:
    """In one line, as it is: names and reasons of others are neither markup nor orders to the
    terminal.
    """
    return Text(one_line(text))


def _table(title: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left")


def took(seconds: float) -> str:
    """Example: `8.2 s`, `12.5 min`, `3.1 h`, `4.2 days`."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
