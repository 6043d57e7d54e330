"""The table of a study: each policy with its row of the paper, its gain over its base and its KL.

Gains are in points of 100, as in the paper. Our results are read from the registry; nothing here
imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from erpd_core.intervals import mean_difference
from flows.recipes.paper import PaperRow, PaperTable, load_paper
from flows.recipes.studies import Study, paper_row
from flows.reports.results import PolicyRow, benchmarks_of, interval, nats, percent, table_rows
from tasks.registry import Registry
from tasks.untrusted.display_text import markdown_table

AVERAGE = "Avg"
"""The paper's own mean over a table's benchmarks."""
LEAST_KL = 0.0005
"""Nats per token; a smaller KL is shown as 0.000, and nothing is divided by it."""


@dataclass(frozen=True)
class Gain:
    """Points over the base, mean over the benchmarks, with an interval that covers at least 95 %.

    **Example:** `Gain(27.0, 22.8, 31.2)`
    """

    points: float
    low: float
    high: float


@dataclass(frozen=True)
class StudyRow:
    """A policy of a study.

    **Example:** `StudyRow("ce", row, paper=load_paper("table1").rows[7], gain=Gain(27.0, 22.8,
    31.2), per_nat=540.0, paper_gain=4.8)`
    """

    arm: str
    row: PolicyRow
    paper: PaperRow | None = None
    """The row of the paper that it is compared with."""
    gain: Gain | None = None
    """None for a base, and if the base has not been measured."""
    per_nat: float | None = None
    """Points gained per nat of KL to base; None if that KL is below `LEAST_KL`."""
    paper_gain: float | None = None
    """The paper's points over its own base; from the average it prints, if any."""
    own_base: bool = False
    """Whether it is one of several different bases, so that its name includes the arm."""

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
        """The paper's score on our benchmark of this name, in points; None without one.

        Names are compared by letters and digits only: `hmmt_feb_25` is the paper's `HMMT Feb 25`.
        """
        scores = (
            {_plain(name): value for name, value in self.paper.values.items()} if self.paper else {}
        )
        return scores.get(_plain(benchmark))

    def score_difference(self, benchmark: str) -> float | None:
        """Our score minus the paper's on a benchmark of the same name, in points."""
        theirs, ours = self.paper_score(benchmark), self.row.report.scores.get(benchmark)
        return None if theirs is None or ours is None else 100 * ours.avg - theirs


def study_rows(
    registry: Registry, campaigns: Mapping[str, str], study: Study | None = None
) -> list[StudyRow]:
    """Every measured policy, arm by arm.

    Arms share their base, and often teachers. Such a policy is listed once, in its first arm. It is
    listed again only if another arm's `rows` compare it with another row of the paper. A policy
    that is measured on other benchmarks in another arm counts as another policy.

    **Arguments:**
        campaigns: Arm -> campaign id.
    **Raises:** ValueError if an arm names a row that the paper's table does not have.
    """
    table = load_paper(study.paper) if study and study.paper else None
    places = {arm.name: arm.rows for arm in study.arms} if study else {}
    rows: list[StudyRow] = []
    seen: dict[str, list[int]] = {}
    for arm, campaign in campaigns.items():
        policies = table_rows(registry, campaign)
        base = next((policy for policy in policies if policy.role == "base"), None)
        for policy in policies:
            place = places.get(arm, {}).get(
                "base" if policy.role == "base" else f"{policy.iteration}.{policy.role}"
            )
            paper = paper_row(table, place) if table and place else None
            row = replace(
                _measured(arm, policy, base),
                paper=paper,
                paper_gain=_paper_gain(table, paper, places.get(arm, {})),
            )
            same = seen.setdefault(
                policy.report.policy + policy.report.model_dump_json(include={"scores"}), []
            )
            papers = [rows[index].paper for index in same]
            if not same or (paper and None not in papers and paper not in papers):
                same.append(len(rows))
                rows.append(row)
            elif paper and None in papers:  # listed by an earlier arm, without a row of the paper
                index = same[papers.index(None)]
                rows[index] = replace(rows[index], paper=paper, paper_gain=row.paper_gain)
    several = len({row.row.report.policy for row in rows if row.row.role == "base"}) > 1
    return [replace(row, own_base=several and row.row.role == "base") for row in rows]


def _measured(arm: str, row: PolicyRow, base: PolicyRow | None) -> StudyRow:
    gain = gain_over(row, base) if base and row.role != "base" else None
    kl = row.report.kl_base
    return StudyRow(
        arm, row, gain=gain, per_nat=gain.points / kl if gain and kl >= LEAST_KL else None
    )


def gain_over(row: PolicyRow, base: PolicyRow) -> Gain | None:
    """The mean difference over the benchmarks that both have; None without one.

    The two scores are treated as independent, although both are on the same problems: half widths
    are added in quadrature. The interval is wider than a paired one.
    """
    pairs = [
        (score, base.report.scores[name])
        for name, score in row.report.scores.items()
        if name in base.report.scores
    ]
    if not pairs:
        return None
    points, (low, high) = mean_difference(pairs)
    return Gain(100 * points, 100 * low, 100 * high)


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
    bases = [other for other in table.rows if other.key == "base"]
    own = [base for base in bases if base.group == row.group]
    if own:
        return own[0]
    if "base" in places:
        return paper_row(table, places["base"])
    return bases[0] if len(bases) == 1 else None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


# --------------------------------------------------------------------------------------------- text


def signed(points: float | None) -> str:
    """A difference in points, always with its sign."""
    return (
        "–"
        if points is None or not math.isfinite(points)
        else f"{points:+.1f}".replace("-0.0", "+0.0").replace("-", "−")
    )


def gain_words(gain: Gain | None) -> str:
    """A gain and its interval as text; empty without one."""
    return f"{signed(gain.points)} [{signed(gain.low)}, {signed(gain.high)}]" if gain else ""


def per_nat_words(per_nat: float | None) -> str:
    """Points per nat as text, with three significant figures: they are large and inexact."""
    return (
        ""
        if per_nat is None or not math.isfinite(per_nat)
        else f"{float(f'{per_nat:.3g}'):,.0f}".replace("-", "−")
    )


def signal_of(row: PolicyRow) -> str:
    """The strategy of a student's iteration; empty for a base or teacher."""
    return row.strategy if row.role == "student" else ""


def study_markdown(rows: Sequence[StudyRow]) -> str:
    """The rows as a Markdown table; with the paper's columns if some row is compared with it."""
    benchmarks = benchmarks_of([row.row for row in rows])
    paper = any(row.paper for row in rows)
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
    for row in rows:
        report = row.row.report
        scores = [
            f"{percent(s.avg)} {interval(s)}" if (s := report.scores.get(name)) else ""
            for name in benchmarks
        ]
        figures = [
            nats(report.kl_old),
            nats(report.kl_base),
            per_nat_words(row.per_nat),
            nats(report.entropy),
            f"{report.length:.1f}",
        ]
        line = [row.name, signal_of(row.row), *scores, gain_words(row.gain), *figures]
        lines.append(line + (_paper_cells(row) if paper else []))
    return markdown_table(head, lines)


def _paper_cells(row: StudyRow) -> list[str]:
    if row.paper is None:
        return ["", "", "", ""]
    kl = row.paper.values.get("KL")
    label = f"{row.paper.label} ({row.paper.group})" if row.paper.group else row.paper.label
    gains = [
        signed(value) if value is not None else ""
        for value in (row.paper_gain, row.gain_difference)
    ]
    return [label, gains[0], "" if kl is None else nats(kl), gains[1]]
