"""The output of `erpd eval`: scores, the comparison, and the most informative problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.inspect.problem_table import ProblemRow, counts, worth_showing
from flows.reports.results import nats, percent, points
from tasks.untrusted.display_text import one_line

CUT = 0.05
"""Share of truncated responses above which the output warns about the length limit."""

NUMBERS = ("solved", "against", "tokens", "cut", "votes")
"""Numeric columns of the per-problem table; they are right-aligned."""


def print_evaluation(
    result: Mapping[str, Any],
    rows: Sequence[ProblemRow],
    names: Mapping[str, str],
    console: Console,
) -> None:
    """Print the result of an evaluation.

    **Arguments:**
        result: The JSON object of `erpd eval --json`.
        rows: The rows of the per-problem table.
        names: `model` and `against` as the user gave them.
    """
    paired = "against" in result
    console.print(
        "Scores in % with their 95 % interval over problems; entropy and KL in nats per token",
        style="italic",
        highlight=False,
    )
    if paired:
        for benchmark in result["scores"]:
            console.print(_side_by_side(benchmark, result, names))
            console.print(
                _plain(_comparison(benchmark, result["comparison"][benchmark], names)),
                highlight=False,
            )
    else:
        console.print(_measures(result))
    reports = (
        {names["model"]: result, names["against"]: result["against"]} if paired else {"": result}
    )
    for name, report in reports.items():
        console.print(_plain(_sampled(name, report)), highlight=False)
        for benchmark, judged in report.get("judge", {}).items():
            console.print(_plain(_judged(name, benchmark, judged)), highlight=False)
    for benchmark in result["scores"]:
        of_benchmark = [row for row in rows if row["benchmark"] == benchmark]
        shown = worth_showing(of_benchmark)
        console.print(
            _plain(_counted(benchmark, of_benchmark, len(shown), paired)),
            style="italic",
            highlight=False,
        )
        if shown:
            console.print(_problems(shown, paired))
    console.print(
        _plain(f"every problem: {result['per_problem']}"), highlight=False, soft_wrap=True
    )


def _plain(text: str) -> Text:
    """Return the text as one line without Rich markup or control sequences.

    Names and answers are not trusted.
    """
    return Text(one_line(text))


def _measures(report: Mapping[str, Any]) -> Table:
    """Return a table with one row per benchmark."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("benchmark", overflow="fold")
    for name in ("n x K", "AVG@K", "95 %", "pass@K", "maj@K", "cut", "none", "tokens", "entropy"):
        table.add_column(name, justify="right", no_wrap=True)
    for benchmark, score in report["scores"].items():
        details = report["details"][benchmark]
        cells = [
            f"{score['problems']} x {score['k']}",
            percent(score["avg"]),
            _interval(score),
            *(text for _, text in _figures(score, details)),
        ]
        table.add_row(*(_plain(cell) for cell in (benchmark, *cells)))
    return table


def _side_by_side(benchmark: str, result: Mapping[str, Any], names: Mapping[str, str]) -> Table:
    """Return a table of one benchmark with one column per model."""
    reports = (result, result["against"])
    scores = [report["scores"][benchmark] for report in reports]
    details = [report["details"][benchmark] for report in reports]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(_plain(f"{benchmark}, {scores[0]['problems']} x {scores[0]['k']}"))
    for name in names.values():
        table.add_column(_plain(name), justify="right", overflow="fold")
    table.add_row("AVG@K", *(f"{percent(score['avg'])} ({_interval(score)})" for score in scores))
    figures = [_figures(score, detail) for score, detail in zip(scores, details, strict=True)]
    for (name, left), (_, right) in zip(*figures, strict=True):
        table.add_row(name, left, right)
    table.add_row("KL to the other", *(nats(detail["kl_base"]) for detail in details))
    return table


def _interval(score: Mapping[str, Any]) -> str:
    low, high = score["ci95"]
    return f"{percent(low)} to {percent(high)}"


def _figures(score: Mapping[str, Any], details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, text) of every measure of a benchmark except its score."""
    return [
        ("pass@K", percent(details["pass_at_k"][str(score["k"])])),
        ("majority@K", "–" if details["majority"] is None else percent(details["majority"])),
        ("cut at the limit", percent(details["truncated"])),
        ("no answer", percent(details["unanswered"])),
        ("tokens", f"{details['length']:.1f}"),
        ("entropy", nats(details["entropy"])),
    ]


def _sampled(name: str, report: Mapping[str, Any]) -> str:
    sampling = report["sampling"]
    more = f", top-k {sampling['top_k']}" if sampling.get("top_k") else ""
    more += (
        f", presence penalty {sampling['presence_penalty']:g}"
        if sampling.get("presence_penalty")
        else ""
    )
    text = f"{name}: " if name else ""
    text += (
        f"sampled at temperature {sampling['temperature']}, top-p {sampling['top_p']}{more}, "
        f"up to {sampling['max_new_tokens']} tokens"
    )
    cut = max(details["truncated"] for details in report["details"].values())
    return (
        f"{text}. Up to {percent(cut)} % of responses hit this limit: raise --max-new-tokens "
        f"before you trust the scores"
        if cut > CUT
        else text
    )


def _judged(name: str, benchmark: str, judged: Mapping[str, Any]) -> str:
    outcomes = ", ".join(
        f"{outcome} {count}" for outcome, count in judged["outcomes"].items() if count
    )
    text = (
        f"{f'{name}: ' if name else ''}the judge on {benchmark}: "
        f"{outcomes or 'nothing to ask'} ({judged['calls']} requests)"
    )
    return f"{text}; stopped at {judged['spent']}" if judged["spent"] else text


def _comparison(benchmark: str, paired: Mapping[str, Any], names: Mapping[str, str]) -> str:
    low, high = paired["ci95"]
    verdict = "beyond noise" if paired["beyond_noise"] else "within noise"
    return (
        f"{benchmark}: {names['model']} minus {names['against']} is "
        f"{points(paired['difference'])} points "
        f"(95 % {points(low)} to {points(high)}), p = {paired['p_value']:.3g}: {verdict}, paired "
        f"over {paired['problems']} problems"
    )


def _counted(benchmark: str, rows: Sequence[ProblemRow], shown: int, paired: bool) -> str:
    how_often = ", ".join(f"{word} {count}" for word, count in counts(rows).items())
    selection = (
        f"the {shown} that {'differ most' if paired else 'were solved least'}"
        if shown
        else "the models differ on none"
    )
    return f"{benchmark}: problems solved {how_often}; {selection}"


def _problems(rows: Sequence[ProblemRow], paired: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in (
        "problem",
        "solved",
        *(["against"] if paired else []),
        "tokens",
        "cut",
        "gold",
        "most common answer",
        "votes",
    ):
        table.add_column(
            name,
            overflow="ellipsis",
            max_width=24,
            no_wrap=True,
            justify="right" if name in NUMBERS else "left",
        )
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
        table.add_row(*(_plain(cell) for cell in cells))
    return table
