"""Output of the commands of `deployments/commands/lineage.py`."""

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

from flows.inspect.campaigns import CampaignSummary
from flows.inspect.compare import ABSENT, CampaignPair, Difference, Pair
from flows.inspect.gc import Cleaned, total
from flows.inspect.lineage import LineageLine, describe_figures
from flows.reports.results import PolicyRow, interval, nats, percent, points
from tasks.untrusted.display_text import one_line

WIDE = 160
"""Columns of the console when stdout is not a terminal: enough for every table."""


def console() -> Console:
    """Return a console as wide as the terminal, or WIDE where stdout is not a terminal."""
    return Console() if sys.stdout.isatty() else Console(width=WIDE)


def print_tree(found: Sequence[LineageLine], descendants: bool) -> None:
    """Print lineage lines as a tree.

    Rich cuts a tree's lines at the console's width. The width is therefore larger than any line,
    and the terminal wraps.
    """
    Console(width=10_000).print(lineage_tree(found, descendants))


def lineage_tree(found: Sequence[LineageLine], descendants: bool = False) -> Tree:
    """Return lineage lines as a tree. A branch that appears again is not expanded again."""
    root = Tree(_label(found[0], descendants))
    opened = [root]
    for entry in found[1:]:
        del opened[entry.line.depth :]
        opened.append(opened[-1].add(_label(entry, descendants)))
    return root


def _label(entry: LineageLine, descendants: bool) -> Text:
    """Return the text of a line.

    It begins with the artifact's role for the line above. Among descendants it begins with the role
    that the line above had for this artifact.
    """
    artifact = entry.line.artifact
    role = f"{'as ' if descendants else ''}{entry.line.role}:" if entry.line.role else ""
    label = Text.assemble((one_line(role), "dim"), " " if role else "", one_line(artifact.id))
    if not artifact.id.startswith(artifact.kind):
        label.append(f" ({artifact.kind})")
    if artifact.removed_at:
        label.append(" (removed)", "yellow")
    if entry.line.repeated:
        return label.append(" (above)", "dim")
    figures = [
        *describe_figures(entry.figures),
        *([took(seconds)] if (seconds := artifact.seconds or 0.0) >= 1 else []),
    ]
    label.append(f"  {one_line(', '.join(figures))}" if figures else "", "cyan")
    if entry.decision:
        label.append(f"  {entry.decision.strategy}: {one_line(entry.decision.reason)}", "green")
    return label


def campaign_table(found: Sequence[CampaignSummary]) -> Table:
    """Return the table of `erpd campaigns`."""
    table = _table(
        "Mean score over the benchmarks in % with its 95 % interval; KL in nats per token"
    )
    for name in ("campaign", "recipe", "status"):
        table.add_column(name, overflow="fold")
    for name in ("done", "base", "last student", "KL base", "started", "took"):
        table.add_column(name, justify="right", no_wrap=True)
    for overview in found:
        campaign, student = overview.campaign, overview.student
        status = f"{campaign.status} (forgotten)" if campaign.forgotten_at else campaign.status
        done = f"{overview.done}/{overview.asked}" if overview.asked else str(overview.done)
        base = percent(overview.base.mean) if overview.base else "–"
        measured = [_mean(student), nats(student.report.kl_base)] if student else ["–", "–"]
        times = [f"{campaign.created_at.astimezone():%Y-%m-%d}", took(overview.seconds)]
        cells = [campaign.id, campaign.recipe, status, done, base, *measured, *times]
        table.add_row(*(_plain(cell) for cell in cells))
    return table


def _mean(row: PolicyRow) -> str:
    low, high = row.mean_ci95
    return f"{percent(row.mean)} [{percent(low)}, {percent(high)}]"


# ------------------------------------------------------------------------------------ two campaigns


def print_pair(found: CampaignPair, console: Console) -> None:
    """Print the output of `erpd compare`."""
    for side, campaign in (("A", found.a), ("B", found.b)):
        console.print(_plain(f"{side}  {campaign.id}  ({campaign.status})"), highlight=False)
    if found.config:
        table = _table("Config differences")
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
        console.print("The two have no students on a common benchmark to compare.")


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


def _difference(difference: Difference, students: Sequence[PolicyRow | None]) -> str:
    names = " minus ".join(
        f"{side}'s {row.name}" for side, row in zip("AB", students, strict=True) if row
    )
    low, high = difference.ci95
    text = (
        f"{difference.benchmark}: {names} is {points(difference.difference)} points (95 % "
        f"{points(low)} to {points(high)})"
    )
    if difference.paired:
        verdict = "beyond noise" if difference.paired["beyond_noise"] else "within noise"
        return (
            f"{text}, p = {difference.paired['p_value']:.3g}: {verdict}, paired over "
            f"{difference.paired['problems']} problems"
        )
    return f"{text}, taken as independent: {difference.why_not}"


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
    """Print the output of `erpd gc`."""
    for campaign in found.forgotten:
        console.print(
            _plain(f"{campaign}: {'would be forgotten' if found.dry_run else 'forgotten'}"),
            highlight=False,
        )
    if found.went:
        table = _table("Would be removed" if found.dry_run else "Removed")
        for name in ("kind", "number", "size", "largest"):
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
        table = _table("Largest items kept, and why")
        for name in ("what", "size", "why"):
            table.add_column(name, justify="right" if name == "size" else "left", overflow="fold")
        for kept in found.largest:
            table.add_row(_plain(kept.item.id), decimal(kept.item.size), _plain(kept.why))
        console.print(table)
    for item in found.spared:
        console.print(_plain(f"kept, because it was used meanwhile: {item.id}"), highlight=False)
    since = datetime.fromtimestamp(found.plan.since).strftime("%Y-%m-%d %H:%M")
    console.print(
        f"Nothing used since {since} is removed ({found.plan.because}).",
        highlight=False,
        soft_wrap=True,
    )
    stays = decimal(total([kept.item for kept in found.plan.stays]))
    if found.dry_run:
        console.print(
            f"Would free {decimal(total(found.went))} and keep {stays}. Nothing was changed.",
            highlight=False,
        )
    else:
        console.print(f"Freed {decimal(total(found.went))}; kept {stays}.", highlight=False)


# --------------------------------------------------------------------------------------------- text


def _plain(text: str) -> Text:
    """Return the text as one line without Rich markup or control sequences.

    Names and reasons are not trusted.
    """
    return Text(one_line(text))


def _table(title: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left")


def took(seconds: float) -> str:
    """Format a duration. Example: `8.2 s`, `12.5 min`, `3.1 h`, `4.2 days`."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
