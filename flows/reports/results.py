"""What a campaign measured: the rows of its table, the table for a terminal, and what came of it in
plain sentences.

Everything is read from the registry. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from erpd_core.refs import EvalReport, Score
from tasks.registry import Attached, Iteration, Registry, Reported
from tasks.untrusted.display_text import one_line

if TYPE_CHECKING:
    from rich.table import Table

ORDER = {"base": 0, "teacher": 1, "student": 2}


@dataclass(frozen=True)
class PolicyRow:
    """One measured policy of a campaign.

    Example: `PolicyRow(1, "student", "S1", report, step=16, policy_role="student", best=True)`
    """

    iteration: int
    role: str
    strategy: str
    """What its iteration decided: S1, S2, S3, online, stop; empty for the base and before the
    decision.
    """
    report: EvalReport
    step: int | None
    """Optimizer steps from its iteration's start; None when the registry does not know the
    policy.
    """
    policy_role: str
    best: bool = False
    """The student with the highest mean score over the benchmarks; of equals, the one nearest to
    the base.
    """

    @property
    def name(self) -> str:
        return self.role if self.role == "base" else f"{self.role} {self.iteration}"

    @property
    def moved(self) -> bool:
        """False for the student of an iteration that stopped: it is the start, kept as it was."""
        return not (self.role == "student" and self.strategy == "stop")

    @property
    def mean(self) -> float:
        """Mean score over the benchmarks, of 1."""
        return math.fsum(score.avg for score in self.report.scores.values()) / max(
            1, len(self.report.scores)
        )

    @property
    def mean_ci95(self) -> tuple[float, float]:
        """95 % interval of that mean: benchmarks are independent, so the sides of their
        intervals add in squares.
        """
        scores = list(self.report.scores.values())
        low, high = (
            math.hypot(*(score.ci95[side] - score.avg for score in scores)) / max(1, len(scores))
            for side in (0, 1)
        )
        return self.mean - low, self.mean + high


def table_rows(registry: Registry, campaign_id: str) -> list[PolicyRow]:
    """The base, then each iteration's teacher and student: every policy that has been measured
    so far.
    """
    policies = registry.artifacts_of([campaign_id], "policy")[campaign_id]
    return rows_of(registry.iterations(campaign_id), policies, registry.reports(campaign_id))


def rows_of(
    iterations: Sequence[Iteration], policies: Sequence[Attached], reports: Sequence[Reported]
) -> list[PolicyRow]:
    """The same, of one campaign whose parts are at hand."""
    strategies = {one.index: one.decision.strategy for one in iterations if one.decision}
    refs = {one.artifact.id: one.artifact.meta.get("ref") or {} for one in policies}
    rows = []
    for found in sorted(reports, key=lambda one: (one.iteration, ORDER.get(one.role, 9), one.role)):
        ref = refs.get(found.report.policy, {})
        strategy = strategies.get(found.iteration, "")
        rows.append(
            PolicyRow(
                found.iteration,
                found.role,
                strategy,
                found.report,
                ref.get("step"),
                ref.get("role", found.role),
            )
        )
    students = [row for row in rows if row.role == "student" and row.moved]
    best = max(
        students, key=lambda row: (row.mean, -row.report.kl_base, -row.iteration), default=None
    )
    return [PolicyRow(**{**vars(row), "best": row is best}) for row in rows]


def last_student(rows: Sequence[PolicyRow]) -> PolicyRow | None:
    """The last student that an iteration came to."""
    return next((row for row in reversed(rows) if row.role == "student" and row.moved), None)


def start_of(row: PolicyRow, rows: Sequence[PolicyRow]) -> PolicyRow | None:
    """The policy that a row's iteration began from: the last student before it, else the base."""
    before = [
        one
        for one in rows
        if one.iteration < row.iteration
        and (one.role == "base" or (one.role == "student" and one.moved))
    ]
    return before[-1] if before else None


# ------------------------------------------------------------------------------------ plain numbers


def percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else "–"


def points(value: float) -> str:
    """A difference of scores in points, always with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−") if math.isfinite(value) else "–"


def nats(value: float) -> str:
    return (
        f"{value:.3f}".replace("-0.000", "0.000").replace("-", "−") if math.isfinite(value) else "–"
    )


def interval(score: Score) -> str:
    return f"[{percent(score.ci95[0])}, {percent(score.ci95[1])}]"


def rich_table(rows: Sequence[PolicyRow]) -> Table:
    """The rows for a terminal; the best student is bold."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    benchmarks = benchmarks_of(rows)
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title="Scores in % with 95 % interval; KL and entropy in nats per token; length in tokens",
        title_justify="left",
    )
    table.add_column("policy")
    for name in ("signal", *benchmarks, "KL old", "KL base", "entropy", "length", "step"):
        table.add_column(
            Text(one_line(name)), justify="left" if name == "signal" else "right", overflow="fold"
        )
    for row in rows:
        report = row.report
        scores = [
            f"{percent(s.avg)} {interval(s)}" if (s := report.scores.get(name)) else "–"
            for name in benchmarks
        ]
        figures = [
            nats(report.kl_old),
            nats(report.kl_base),
            nats(report.entropy),
            f"{report.length:.1f}",
            step_of(row),
        ]
        table.add_row(
            *(
                Text(one_line(text))
                for text in (
                    row.name,
                    row.strategy if row.role == "student" else "",
                    *scores,
                    *figures,
                )
            ),
            style="bold" if row.best else None,
        )
    return table


def benchmarks_of(rows: Sequence[PolicyRow]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.report.scores))


def step_of(row: PolicyRow) -> str:
    return "–" if row.step is None else str(row.step)


# ---------------------------------------------------------------------------------- what came of it


def summary(rows: Sequence[PolicyRow]) -> list[str]:
    """What came out, in plain sentences: the best student first, then what each student kept of
    its teacher's gain, at which KL.
    """
    base = next((row for row in rows if row.role == "base"), None)
    if base is None:
        return ["Nothing has been measured yet."]
    benchmarks = benchmarks_of(rows)
    on = benchmarks[0] if len(benchmarks) == 1 else f"average over {len(benchmarks)} benchmarks"
    best = next((row for row in rows if row.best), None)
    if best is None:
        return [f"The base scores {percent(base.mean)} % ({on}); no student has been measured yet."]
    apart = all(
        best.report.scores[name].ci95[0] > base.report.scores[name].ci95[1]
        for name in benchmarks
        if _both(name, best, base)
    )
    where = (
        ""
        if len(benchmarks) == 1
        else " on any benchmark"
        if apart
        else " on at least one benchmark"
    )
    several = sum(row.role == "student" and row.moved for row in rows) > 1
    subject = f"The {'best ' if several else ''}student (iteration {best.iteration})"
    first = (
        f"{subject} scores {percent(best.mean)} % ({on}): {points(best.mean - base.mean)} points "
        f"against base ({percent(base.mean)} %), "
        f"at {nats(best.report.kl_base)} nats per token from it. "
        f"The two 95 % intervals {'do not overlap' if apart else 'overlap'}{where}."
    )
    return [
        first,
        *(sentence for row in rows if row.role == "student" if (sentence := _kept(row, rows))),
    ]


def _both(name: str, *rows: PolicyRow) -> bool:
    return all(name in row.report.scores for row in rows)


def _kept(student: PolicyRow, rows: Sequence[PolicyRow]) -> str | None:
    """One iteration's sentence. A share of the teacher's gain is only named where that gain is
    more than its interval's half width.
    """
    title = f"Iteration {student.iteration}"
    if not student.moved:
        return f"{title} stopped: its start was kept as it was."
    teacher = next(
        (row for row in rows if row.role == "teacher" and row.iteration == student.iteration), None
    )
    start = start_of(student, rows)
    if teacher is None or start is None:
        return None
    won, led = student.mean - start.mean, teacher.mean - start.mean
    noise = max(
        (score.ci95[1] - score.avg for score in teacher.report.scores.values()), default=0.0
    )
    own, far = student.report.kl_old, teacher.report.kl_old
    cost = f"{nats(own)} against {nats(far)} nats per token"
    share = (
        f"{100 * own / far:.0f} % of its KL to old ({cost})"
        if far > 0 and own >= 0
        else f"a KL to old of {cost}"
    )
    title += f" ({student.strategy})"
    if led <= noise:
        unclear = f"the teacher was not clearly better than its start ({points(led)} points)"
        return f"{title}: {unclear}; the student came to {points(won)} points at {share}."
    if won < 0:
        return (
            f"{title}: the student lost {percent(-won)} points although its teacher gained "
            f"{percent(led)}, at {share}."
        )
    kept = f"{100 * won / led:.0f} % of the teacher's gain ({points(won)} of {points(led)} points)"
    return f"{title}: the student kept {kept} at {share}."
