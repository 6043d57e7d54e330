"""What `erpd eval` prints: a table of measures, the comparison in words, and the problems that say most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deployments.problem_table import Row, counts, worth_showing
from flows.results import nats, percent, points

CUT = 0.05
"""Share of truncated responses from which a score says more about the length limit than about the model."""

NUMBERS = ("solved", "against", "tokens", "cut", "votes")
"""Columns of the per-problem table that are."""


def print_evaluation(result: Mapping[str, Any], rows: Sequence[Row], names: Mapping[str, str], console: Console) -> None:
    """`rows` are those of the per-problem table; `names` are `model` and `against` as the user called them."""
    reports = {names["model"]: result} | ({names["against"]: result["against"]} if "against" in result else {})
    console.print("Scores in % with their 95 % interval over problems; entropy in nats per token", style="italic", highlight=False)
    console.print(_measures(reports))
    for name, report in reports.items():
        console.print(_sampled(name if len(reports) > 1 else "", report), highlight=False)
    for benchmark, one in result.get("comparison", {}).items():
        console.print(_comparison(benchmark, one, names), highlight=False)
    for benchmark in result["scores"]:
        of_benchmark = [row for row in rows if row["benchmark"] == benchmark]
        shown = worth_showing(of_benchmark)
        console.print(_counted(benchmark, of_benchmark, len(shown), "against" in result), style="italic", highlight=False)
        if shown:
            console.print(_problems(shown, "against" in result))
    console.print(f"every problem: {result['per_problem']}", highlight=False, soft_wrap=True)


def _measures(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    several = len(reports) > 1
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in (*(["model"] if several else []), "benchmark"):
        table.add_column(name, overflow="fold")
    for name in ("n x K", "AVG@K", "95 %", "pass@K", "maj@K", "cut", "none", "tokens", "entropy", *(["KL"] if several else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for model, report in reports.items():
        for benchmark, score in report["scores"].items():
            one = report["details"][benchmark]
            low, high = score["ci95"]
            cells = [
                *([model] if several else []),
                benchmark,
                f"{score['problems']} x {score['k']}",
                percent(score["avg"]),
                f"{percent(low)} to {percent(high)}",
                percent(one["pass_at_k"][str(score["k"])]),
                "–" if one["majority"] is None else percent(one["majority"]),
                percent(one["truncated"]),
                percent(one["unanswered"]),
                f"{one['length']:.1f}",
                nats(one["entropy"]),
                *([nats(one["kl_base"])] if several else []),
            ]
            table.add_row(*(Text(cell) for cell in cells))
    return table


def _sampled(name: str, report: Mapping[str, Any]) -> str:
    sampling = report["sampling"]
    top_k = f", top-k {sampling['top_k']}" if sampling.get("top_k") else ""
    said = f"{name}: " if name else ""
    said += f"sampled at temperature {sampling['temperature']}, top-p {sampling['top_p']}{top_k}, up to {sampling['max_new_tokens']} tokens"
    cut = max(one["truncated"] for one in report["details"].values())
    return f"{said}. Up to {percent(cut)} % were cut there: raise --max-new-tokens before you trust the scores" if cut > CUT else said


def _comparison(benchmark: str, one: Mapping[str, Any], names: Mapping[str, str]) -> str:
    low, high = one["ci95"]
    verdict = "beyond noise" if one["beyond_noise"] else "within noise"
    return (
        f"{benchmark}: {names['model']} minus {names['against']} is {points(one['difference'])} points "
        f"(95 % {points(low)} to {points(high)}), p = {one['p_value']:.3g}: {verdict}, paired over {one['problems']} problems"
    )


def _counted(benchmark: str, rows: Sequence[Row], shown: int, paired: bool) -> str:
    said = ", ".join(f"{word} {count}" for word, count in counts(rows).items())
    chosen = f"the {shown} that {'differ most' if paired else 'were solved least'}" if shown else "the models differ on none"
    return f"{benchmark}: problems solved {said}; {chosen}"


def _problems(rows: Sequence[Row], paired: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("problem", "solved", *(["against"] if paired else []), "tokens", "cut", "gold", "most common answer", "votes"):
        table.add_column(name, overflow="ellipsis", max_width=24, no_wrap=True, justify="right" if name in NUMBERS else "left")
    for row in rows:
        cells = [
            row["problem"],
            f"{row['solved']}/{row['samples']}",
            *([f"{row['against_solved']}/{row['against_samples']}"] if paired else []),
            f"{row['length']:.0f}",
            str(row["truncated"]),
            row["gold"],
            row["answer"] or "–",
            str(row["votes"]),
        ]
        table.add_row(*(Text(" ".join(cell.split())) for cell in cells))
    return table
