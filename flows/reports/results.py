"""The results of a campaign: the rows of its table, a table for the terminal, and a summary.

Everything is read from the registry. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from erpd_core.intervals import mean_score
from erpd_core.refs import EvalReport, Score
from tasks.registry import Attached, IterationRecord, Registry, Reported
from tasks.untrusted.display_text import one_line

if TYPE_CHECKING:
    from rich.table import Table

ORDER = {"base": 0, "teacher": 1, "student": 2}


@dataclass(frozen=True)
class PolicyRow:
    """One measured policy of a campaign.

    **Example:** `PolicyRow(1, "student", "S1", report, step=16, policy_role="student", best=True)`
    """

    iteration: int
    role: str
    strategy: str
    """Strategy of its iteration: S1, S2, S3, online, none, stop; empty for the base and before the
    decision.
    """
    report: EvalReport
    step: int | None
    """Optimizer steps from its iteration's start; None if the policy is not in the registry."""
    policy_role: str
    best: bool = False
    """Whether it is the student with the highest mean score over the benchmarks.

    Ties go to the one with the least KL to the base.
    """

    @property
    def name(self) -> str:
        return self.role if self.role == "base" else f"{self.role} {self.iteration}"

    @property
    def moved(self) -> bool:
        """False for the student of an iteration that stopped: it is the unchanged start."""
        return not (self.role == "student" and self.strategy == "stop")

    @property
    def mean(self) -> float:
        """Mean score over the benchmarks, as a share of 1."""
        return mean_score(list(self.report.scores.values()))[0]

    @property
    def mean_ci95(self) -> tuple[float, float]:
        """95 % interval of the mean score."""
        return mean_score(list(self.report.scores.values()))[1]


def table_rows(registry: Registry, campaign_id: str) -> list[PolicyRow]:
    """The measured policies of a campaign: the base, then each iteration's teacher and student."""
    policies = registry.artifacts_of([campaign_id], "policy")[campaign_id]
    return rows_of(registry.iterations(campaign_id), policies, registry.reports(campaign_id))


def rows_of(
    iterations: Sequence[IterationRecord], policies: Sequence[Attached], reports: Sequence[Reported]
) -> list[PolicyRow]:
    """As `table_rows`, for a campaign whose parts are already read from the registry."""
    strategies = {
        iteration.index: iteration.decision.strategy
        for iteration in iterations
        if iteration.decision
    }
    refs = {place.artifact.id: place.artifact.meta.get("ref") or {} for place in policies}
    rows = []
    for reported in sorted(
        reports, key=lambda row: (row.iteration, ORDER.get(row.role, 9), row.role)
    ):
        ref = refs.get(reported.report.policy, {})
        strategy = strategies.get(reported.iteration, "")
        rows.append(
            PolicyRow(
                reported.iteration,
                reported.role,
                strategy,
                reported.report,
                ref.get("step"),
                ref.get("role", reported.role),
            )
        )
    students = [row for row in rows if row.role == "student" and row.moved]
    best = max(
        students, key=lambda row: (row.mean, -row.report.kl_base, -row.iteration), default=None
    )
    return [PolicyRow(**{**vars(row), "best": row is best}) for row in rows]


def last_student(rows: Sequence[PolicyRow]) -> PolicyRow | None:
    """The last student that differs from the start of its iteration."""
    return next((row for row in reversed(rows) if row.role == "student" and row.moved), None)


def start_of(row: PolicyRow, rows: Sequence[PolicyRow]) -> PolicyRow | None:
    """The start of a row's iteration: the last student before it, else the base."""
    before = [
        other
        for other in rows
        if other.iteration < row.iteration
        and (other.role == "base" or (other.role == "student" and other.moved))
    ]
    return before[-1] if before else None


# ------------------------------------------------------------------------------------------ numbers


def percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else "–"


def points(value: float) -> str:
    """A difference of scores (as a share of 1) in points, always with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−") if math.isfinite(value) else "–"


def nats(value: float) -> str:
    return (
        f"{value:.3f}".replace("-0.000", "0.000").replace("-", "−") if math.isfinite(value) else "–"
    )


def interval(score: Score) -> str:
    return f"[{percent(score.ci95[0])}, {percent(score.ci95[1])}]"


def rich_table(rows: Sequence[PolicyRow]) -> Table:
    """The rows as a table for the terminal; the best student is bold."""
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


# ------------------------------------------------------------------------------------------ summary


def summary(rows: Sequence[PolicyRow]) -> list[str]:
    """The results in sentences.

    The first is about the best student. The others say what share of its teacher's gain each
    student kept, at which KL.
    """
    base = next((row for row in rows if row.role == "base"), None)
    if base is None:
        return ["Nothing has been measured yet."]
    benchmarks = benchmarks_of(rows)
    on = benchmarks[0] if len(benchmarks) == 1 else f"average over {len(benchmarks)} benchmarks"
    best = next((row for row in rows if row.best), None)
    if best is None:
        return [f"The base scores {percent(base.mean)} % ({on}); no student has been measured yet."]
    separate = all(
        best.report.scores[name].ci95[0] > base.report.scores[name].ci95[1]
        for name in benchmarks
        if _both(name, best, base)
    )
    where = (
        ""
        if len(benchmarks) == 1
        else " on any benchmark"
        if separate
        else " on at least one benchmark"
    )
    several = sum(row.role == "student" and row.moved for row in rows) > 1
    subject = f"The {'best ' if several else ''}student (iteration {best.iteration})"
    first = (
        f"{subject} scores {percent(best.mean)} % ({on}): {points(best.mean - base.mean)} points "
        f"against base ({percent(base.mean)} %), "
        f"at {nats(best.report.kl_base)} nats per token from it. "
        f"The two 95 % intervals {'do not overlap' if separate else 'overlap'}{where}."
    )
    return [
        first,
        *(sentence for row in rows if row.role == "student" if (sentence := _kept(row, rows))),
    ]


def _both(name: str, *rows: PolicyRow) -> bool:
    return all(name in row.report.scores for row in rows)


def _kept(student: PolicyRow, rows: Sequence[PolicyRow]) -> str | None:
    """The sentence about an iteration; None if its teacher or start has not been measured.

    A share of the teacher's gain is only given if that gain exceeds the half width of the teacher's
    interval.
    """
    title = f"Iteration {student.iteration}"
    if not student.moved:
        return f"{title} stopped: its start was kept unchanged."
    teacher = next(
        (row for row in rows if row.role == "teacher" and row.iteration == student.iteration), None
    )
    start = start_of(student, rows)
    if teacher is None or start is None:
        return None
    gain, teacher_gain = student.mean - start.mean, teacher.mean - start.mean
    noise = max(
        (score.ci95[1] - score.avg for score in teacher.report.scores.values()), default=0.0
    )
    kl, teacher_kl = student.report.kl_old, teacher.report.kl_old
    cost = f"{nats(kl)} against {nats(teacher_kl)} nats per token"
    share = (
        f"{100 * kl / teacher_kl:.0f} % of its KL to old ({cost})"
        if teacher_kl > 0 and kl >= 0
        else f"a KL to old of {cost}"
    )
    title += f" ({student.strategy})"
    if teacher_gain <= noise:
        unclear = (
            f"the teacher was not clearly better than its start ({points(teacher_gain)} points)"
        )
        return f"{title}: {unclear}; the student changed by {points(gain)} points at {share}."
    if gain < 0:
        return (
            f"{title}: the student lost {percent(-gain)} points although its teacher gained "
            f"{percent(teacher_gain)}, at {share}."
        )
    kept = (
        f"{100 * gain / teacher_gain:.0f} % of the teacher's gain "
        f"({points(gain)} of {points(teacher_gain)} points)"
    )
    return f"{title}: the student kept {kept} at {share}."
