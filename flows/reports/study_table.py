"""A study's policies in one list, each beside its row of the paper, with what it gained over its
base and at which KL.

Gains are in points of 100, as the paper prints them. Everything of ours is read from the registry;
nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flows.recipes.paper import PaperRow, PaperTable, load_paper
from flows.recipes.studies import Study, paper_row
from flows.reports.results import PolicyRow, benchmarks_of, interval, nats, percent, table_rows
from tasks.registry import Registry
from tasks.untrusted.display_text import markdown_table

AVERAGE = "Avg"
"""The paper's own mean over a table's benchmarks."""
LEAST_KL = 0.0005
"""Nats per token below which a KL is shown as 0.000, and nothing is divided by it."""


@dataclass(frozen=True)
class Gain:
    """Points over the base, mean over the benchmarks, with an interval that covers at least 95 %.

    Example: `Gain(27.0, 22.8, 31.2)`
    """

    points: float
    low: float
    high: float


@dataclass(frozen=True)
class StudyRow:
    """A policy of a study.

    Example: `StudyRow("ce", row, paper=load_paper("table1").rows[7], gain=Gain(27.0, 22.8, 31.2),
    per_nat=540.0, paper_gain=4.8)`
    """

    arm: str
    row: PolicyRow
    paper: PaperRow | None = None
    """The row of the paper it stands beside."""
    gain: Gain | None = None
    """None for a base, and where the base has not been measured."""
    per_nat: float | None = None
    """Points gained per nat of KL to base; None where that KL is as good as 0."""
    paper_gain: float | None = None
    """The paper's points over its own base, by its average where it prints one."""
    own_base: bool = False
    """It is one of several bases, and so named by its arm."""

    @property
    def name(self) -> str:
        return (
            self.row.name
            if self.row.role == "base" and not self.own_base
            else f"{self.arm}, {self.row.name}"
        )

    @property
    def gain_difference(self) -> float | None:
        """Our gain minus the paper's, in points."""
        return (
            None
            if self.gain is None or self.paper_gain is None
            else self.gain.points - self.paper_gain
        )

    def paper_score(self, benchmark: str) -> float | None:
        """The paper's score on our benchmark of this name (`hmmt_feb_25` is its `HMMT Feb 25`),
        in points; None without one.
        """
        found = (
            {_plain(name): value for name, value in self.paper.values.items()} if self.paper else {}
        )
        return found.get(_plain(benchmark))

    def score_difference(self, benchmark: str) -> float | None:
        """Our score minus the paper's on a benchmark of the same name, in points."""
        theirs, ours = self.paper_score(benchmark), self.row.report.scores.get(benchmark)
        return None if theirs is None or ours is None else 100 * ours.avg - theirs


def study_rows(
    registry: Registry, campaigns: Mapping[str, str], study: Study | None = None
) -> list[StudyRow]:
    """Every policy measured so far, arm by arm in their order (`campaigns`: arm -> campaign id).

    Arms share their base, and often teachers: a policy stands where it comes first, and again only
    where `rows` puts it beside another row of the paper. A policy measured on other benchmarks in
    another arm counts as another one.

    **Raises:** ValueError: an arm names a row that the paper's table does not have.
    """
    table = load_paper(study.paper) if study and study.paper else None
    places = {arm.name: arm.rows for arm in study.arms} if study else {}
    found: list[StudyRow] = []
    seen: dict[str, list[int]] = {}
    for arm, campaign in campaigns.items():
        rows = table_rows(registry, campaign)
        base = next((row for row in rows if row.role == "base"), None)
        for row in rows:
            place = places.get(arm, {}).get(
                "base" if row.role == "base" else f"{row.iteration}.{row.role}"
            )
            paper = paper_row(table, place) if table and place else None
            entry = replace(
                _measured(arm, row, base),
                paper=paper,
                paper_gain=_paper_gain(table, paper, places.get(arm, {})),
            )
            same = seen.setdefault(
                row.report.policy + row.report.model_dump_json(include={"scores"}), []
            )
            beside = [found[index].paper for index in same]
            if not same or (paper and None not in beside and paper not in beside):
                same.append(len(found))
                found.append(entry)
            elif paper and None in beside:  # it came first in an arm that has nothing to say of it
                index = same[beside.index(None)]
                found[index] = replace(found[index], paper=paper, paper_gain=entry.paper_gain)
    several = len({one.row.report.policy for one in found if one.row.role == "base"}) > 1
    return [replace(one, own_base=several and one.row.role == "base") for one in found]


def _measured(arm: str, row: PolicyRow, base: PolicyRow | None) -> StudyRow:
    gain = gain_over(row, base) if base and row.role != "base" else None
    kl = row.report.kl_base
    return StudyRow(
        arm, row, gain=gain, per_nat=gain.points / kl if gain and kl >= LEAST_KL else None
    )


def gain_over(row: PolicyRow, base: PolicyRow) -> Gain | None:
    """Mean difference over the benchmarks that both have; None without one.

    The two are taken as independent, although they answered the same problems: half widths add in
    squares, which is wider than paired.
    """
    pairs = [
        (score, base.report.scores[name])
        for name, score in row.report.scores.items()
        if name in base.report.scores
    ]
    if not pairs:
        return None
    points = 100 * math.fsum(ours.avg - theirs.avg for ours, theirs in pairs) / len(pairs)
    halves = [
        max(score.ci95[1] - score.avg, score.avg - score.ci95[0])
        for pair in pairs
        for score in pair
    ]
    half = 100 * math.sqrt(math.fsum(half * half for half in halves)) / len(pairs)
    return Gain(points, points - half, points + half)


# ---------------------------------------------------------------------------------------- the paper


def _paper_gain(
    table: PaperTable | None, row: PaperRow | None, places: Mapping[str, str]
) -> float | None:
    base = _paper_base(table, row, places) if table and row else None
    if table is None or row is None or base is None or base is row:
        return None
    columns = [name for name in table.benchmarks if name in row.values and name in base.values]
    columns = [AVERAGE] if AVERAGE in columns else columns
    return (
        math.fsum(row.values[name] - base.values[name] for name in columns) / len(columns)
        if columns
        else None
    )


def _paper_base(table: PaperTable, row: PaperRow, places: Mapping[str, str]) -> PaperRow | None:
    """The base of a row: its group's, else the one the arm names, else the table's only one."""
    bases = [one for one in table.rows if one.key == "base"]
    own = [one for one in bases if one.group == row.group]
    if own:
        return own[0]
    if "base" in places:
        return paper_row(table, places["base"])
    return bases[0] if len(bases) == 1 else None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


# -------------------------------------------------------------------------------------------- words


def signed(points: float | None) -> str:
    """A difference in points, always with its sign."""
    return (
        "–"
        if points is None or not math.isfinite(points)
        else f"{points:+.1f}".replace("-0.0", "+0.0").replace("-", "−")
    )


def gain_words(gain: Gain | None) -> str:
    return f"{signed(gain.points)} [{signed(gain.low)}, {signed(gain.high)}]" if gain else ""


def per_nat_words(per_nat: float | None) -> str:
    """Points per nat are large and vague: three figures."""
    return (
        ""
        if per_nat is None or not math.isfinite(per_nat)
        else f"{float(f'{per_nat:.3g}'):,.0f}".replace("-", "−")
    )


def signal_of(row: PolicyRow) -> str:
    """What the iteration's student was made by; nothing for a base or teacher."""
    return row.strategy if row.role == "student" else ""


def study_markdown(listed: Sequence[StudyRow]) -> str:
    """The list as a markdown table, with the paper's columns where some policy stands beside a
    row of it.
    """
    benchmarks = benchmarks_of([entry.row for entry in listed])
    paper = any(entry.paper for entry in listed)
    head = [
        "policy",
        "signal",
        *benchmarks,
        "gain over base",
        "KL old",
        "KL base",
        "points per nat",
        "entropy",
        "length",
    ]
    head += ["paper's row", "paper's gain", "paper's KL", "gain minus paper's"] if paper else []
    lines = []
    for entry in listed:
        report = entry.row.report
        scores = [
            f"{percent(s.avg)} {interval(s)}" if (s := report.scores.get(name)) else ""
            for name in benchmarks
        ]
        figures = [
            nats(report.kl_old),
            nats(report.kl_base),
            per_nat_words(entry.per_nat),
            nats(report.entropy),
            f"{report.length:.1f}",
        ]
        line = [entry.name, signal_of(entry.row), *scores, gain_words(entry.gain), *figures]
        lines.append(line + (_paper_cells(entry) if paper else []))
    return markdown_table(head, lines)


def _paper_cells(entry: StudyRow) -> list[str]:
    if entry.paper is None:
        return ["", "", "", ""]
    kl = entry.paper.values.get("KL")
    label = f"{entry.paper.label} ({entry.paper.group})" if entry.paper.group else entry.paper.label
    found = [
        signed(value) if value is not None else ""
        for value in (entry.paper_gain, entry.gain_difference)
    ]
    return [label, found[0], "" if kl is None else nats(kl), found[1]]
