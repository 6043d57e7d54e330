"""Figures of a study: gains, and score against KL, iteration and time.

As in `flows/reports/figures/campaign.py`, every function draws plain values and returns a new
figure, or None if there is nothing to draw. An arm has the same colour in all of them (`order`: all
arms of the study). Up to twelve arms have distinct colours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from erpd_core.refs import Score
from flows.reports.figures.campaign import (
    BASE,
    FRONT,
    INK,
    STYLE,
    handle,
    kl_axis,
    new_figure,
    pareto_front,
    time_unit,
)
from flows.reports.figures.style import (
    Name,
    all_arms,
    arm_color,
    arm_dash,
    arm_handles,
    grid,
    legend,
    look,
    role_handles,
    short,
    write_names,
)


@dataclass(frozen=True)
class Gained:
    """A policy's gain over its base with its 95 % interval, and the paper's gain, all in points.

    **Example:** `Gained("ce", "student 1", "student", 27.0, 22.8, 31.2, paper=4.8)`
    """

    arm: str
    name: str
    role: str
    points: float
    low: float
    high: float
    paper: float | None = None


@dataclass(frozen=True)
class Placed:
    """A measured policy of an arm.

    **Example:** `Placed("ce", "student", 1, 0.05, {"test": score}, strategy="S1")`
    """

    arm: str
    role: str
    iteration: int
    kl: float
    """KL(policy || base), nats per token."""
    scores: Mapping[str, Score]
    strategy: str = ""
    """Strategy of its iteration: S1, S2, S3, online, none, stop."""


@dataclass(frozen=True)
class Timeline:
    """An arm's policies by the time of work after which they existed.

    **Example:** `Timeline("ce", [(0.0, base), (140.0, teacher)], kept=[[(60.0, 0.71), (120.0,
    0.74)]])`
    """

    arm: str
    policies: Sequence[tuple[float, Placed]]
    """Seconds of work, and the policy that existed then."""
    kept: Sequence[Sequence[tuple[float, float]]] = field(default_factory=tuple)
    """Per training run: seconds and validation score (as a share of 1) of its kept steps."""


# -------------------------------------------------------------------------------------------- gains


def gains(rows: Sequence[Gained], order: Sequence[str] = ()) -> Figure | None:
    """The gain over the base of each policy with its interval, and the paper's gain, if any."""
    rows = [row for row in rows if math.isfinite(row.points)]
    if not rows:
        return None
    arms = all_arms(order, rows)
    with rc_context(STYLE):
        figure = new_figure(8.6, 1.3 + 0.26 * len(rows) + 0.12 * len(arms))
        axes = figure.add_subplot()
        place, ticks = 0.0, []
        for number, row in enumerate(rows):
            if number and row.arm != rows[number - 1].arm:
                place += 0.4
            color = arm_color(row.arm, arms)
            bar: Any = {
                "xerr": [[max(0.0, row.points - row.low)], [max(0.0, row.high - row.points)]],
                "capsize": 2.5,
                "elinewidth": 1.3,
            }
            axes.errorbar(row.points, place, **look(row.role, color), **bar)
            if row.paper is not None:
                axes.plot(
                    row.paper,
                    place,
                    "D",
                    color=INK,
                    markerfacecolor="none",
                    markersize=7.5,
                    markeredgewidth=1.3,
                    zorder=4,
                )
            ticks.append((place, short(f"{row.arm}, {row.name}", 44)))
            place += 1
        axes.axvline(0, color=BASE, linewidth=1)
        axes.set_yticks([where for where, _ in ticks], [text for _, text in ticks])
        axes.set_ylim(place - 0.3, -0.7)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("points over its own base, mean over the benchmarks  (95 % interval)")
        handles = role_handles(row.role for row in rows)
        if any(row.paper is not None for row in rows):
            handles.append(
                Line2D(
                    [],
                    [],
                    color=INK,
                    marker="D",
                    linestyle="",
                    markerfacecolor="none",
                    markersize=7.5,
                    label="the paper's gain",
                )
            )
        legend(figure, handles)
    return figure


# --------------------------------------------------------------------------------------- efficiency


def efficiency(points: Sequence[Placed], order: Sequence[str] = ()) -> Figure | None:
    """Score against KL to the base with the Pareto front, a panel per benchmark."""
    points = [point for point in points if math.isfinite(point.kl)]
    benchmarks = list(dict.fromkeys(name for point in points for name in point.scores))
    if not benchmarks:
        return None
    arms = all_arms(order, points)
    shown = [
        arm for arm in arms if any(point.arm == arm and point.role != "base" for point in points)
    ]
    with rc_context(STYLE):
        figure, rows, columns = grid(len(benchmarks), 6.2, 4.9, 2)
        panels = [
            (name, figure.add_subplot(rows, columns, number + 1))
            for number, name in enumerate(benchmarks)
        ]
        for benchmark, axes in panels:
            _policies(
                axes, [point for point in points if benchmark in point.scores], benchmark, arms
            )
        handles: list[Line2D] = [handle(short(arm), arm_color(arm, arms), "o") for arm in shown]
        handles += role_handles(point.role for point in points)
        handles.append(
            Line2D([], [], color=FRONT, linestyle=(0, (5, 2)), linewidth=1.2, label="Pareto front")
        )
        legend(figure, handles)
        figure.draw_without_rendering()  # positions in pixels are known after the layout
        for benchmark, axes in panels:
            write_names(
                axes,
                _policy_names(
                    [point for point in points if benchmark in point.scores], benchmark, arms
                ),
            )
    return figure


def _policies(axes: Axes, points: Sequence[Placed], benchmark: str, arms: Sequence[str]) -> None:
    kl_axis(axes, [point.kl for point in points])
    front = pareto_front((point.kl, 100 * point.scores[benchmark].avg) for point in points)
    axes.step(
        *zip(*front), where="post", color=FRONT, linestyle=(0, (5, 2)), linewidth=1.2, zorder=1
    )
    for point in points:
        _dot(axes, point.kl, point, benchmark, arms)
    _title(axes, benchmark, points[0].scores[benchmark])


def _dot(axes: Axes, x: float, point: Placed, benchmark: str, arms: Sequence[str]) -> None:
    """Draw a policy with its interval."""
    score = point.scores[benchmark]
    y = 100 * score.avg
    color = BASE if point.role == "base" else arm_color(point.arm, arms)
    bars = [[max(0.0, y - 100 * score.ci95[0])], [max(0.0, 100 * score.ci95[1] - y)]]
    axes.errorbar(
        x,
        y,
        yerr=bars,
        capsize=2,
        elinewidth=0.9,
        zorder=3 if point.role == "student" else 2.5,
        **look(point.role, color),
    )


def _title(axes: Axes, benchmark: str, score: Score) -> None:
    axes.set_title(benchmark.replace("$", r"\$"))
    axes.set_ylabel(f"AVG@{score.k} on {score.problems} problems, %  (95 % interval)")


def _name(point: Placed, x: float, text: str, benchmark: str, color: str) -> Name:
    score = point.scores[benchmark]
    return Name(text, (x, 100 * score.avg), (100 * score.ci95[0], 100 * score.ci95[1]), color)


def _policy_names(points: Sequence[Placed], benchmark: str, arms: Sequence[str]) -> list[Name]:
    """Labels: the arm, and the iteration if an arm has several.

    They are in order of priority: the Pareto front first, then students.
    """
    front = set(pareto_front((point.kl, point.scores[benchmark].avg) for point in points))
    rank = {"student": 0, "base": 1, "teacher": 2}
    several = {
        arm
        for arm in arms
        if len({point.iteration for point in points if point.arm == arm and point.role != "base"})
        > 1
    }
    base = (
        "{} base"
        if len({point.scores[benchmark].avg for point in points if point.role == "base"}) > 1
        else "base"
    )
    names = []
    for point in sorted(
        points,
        key=lambda point: (
            (point.kl, point.scores[benchmark].avg) not in front,
            rank.get(point.role, 3),
        ),
    ):
        form = (
            base
            if point.role == "base"
            else f"{{}} {point.iteration}"
            if point.arm in several
            else "{}"
        )
        text = form.format(short(point.arm, 18))
        names.append(
            _name(
                point,
                point.kl,
                text,
                benchmark,
                BASE if point.role == "base" else arm_color(point.arm, arms),
            )
        )
    return names


# ------------------------------------------------------------------------------------------- stages


def stages(points: Sequence[Placed], order: Sequence[str] = ()) -> Figure | None:
    """Score by iteration, a line per arm through its base and students.

    Each student is labeled with the strategy of its iteration. Teachers are hollow.
    """
    benchmarks = list(dict.fromkeys(name for point in points for name in point.scores))
    if not benchmarks or not any(point.role == "student" for point in points):
        return None
    arms = all_arms(order, points)
    with rc_context(STYLE):
        figure, rows, columns = grid(len(benchmarks), 6.2, 4.4, 2)
        written: list[tuple[Axes, list[Name]]] = []
        for number, benchmark in enumerate(benchmarks):
            axes = figure.add_subplot(rows, columns, number + 1)
            here = [point for point in points if benchmark in point.scores]
            names: list[Name] = []
            for place, arm in enumerate(arms):
                shift = (place - (len(arms) - 1) / 2) * min(0.055, 0.5 / len(arms))
                names += _line(
                    axes, [point for point in here if point.arm == arm], benchmark, arms, shift
                )
            written.append((axes, names))
            _title(axes, benchmark, here[0].scores[benchmark])
            axes.set_xlabel("iteration (label of a student: its strategy)")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(axis="x", visible=False)
            axes.margins(x=0.08, y=0.12)
        drawn = {point.arm for point in points}
        handles = [line for arm, line in zip(arms, arm_handles(arms)) if arm in drawn]
        legend(figure, [*handles, *role_handles(point.role for point in points)])
        figure.draw_without_rendering()
        for axes, names in written:
            write_names(axes, names, down=True)
    return figure


def _line(
    axes: Axes, points: Sequence[Placed], benchmark: str, arms: Sequence[str], shift: float
) -> list[Name]:
    """Draw an arm's policies, and return the labels of its students: their strategies.

    **Arguments:**
        shift: Shift of the arm on the x axis, so that arms do not overlap; the base is not shifted.
    """
    chain = [point for point in points if point.role in ("base", "student")]
    if not chain:
        return []
    color = arm_color(chain[0].arm, arms)
    where = [point.iteration + (shift if point.iteration else 0.0) for point in chain]
    scores = [100 * point.scores[benchmark].avg for point in chain]
    axes.plot(
        where, scores, linestyle=arm_dash(chain[0].arm, arms), color=color, linewidth=1.4, zorder=2
    )
    for point in points:
        if point.role == "teacher":
            small = look("teacher", color) | {"markersize": 4.5, "markeredgewidth": 1.0}
            axes.plot(
                point.iteration + shift,
                100 * point.scores[benchmark].avg,
                linestyle="",
                alpha=0.8,
                **small,
            )
    for x, point in zip(where, chain):
        _dot(axes, x, point, benchmark, arms)
    return [
        _name(point, x, point.strategy, benchmark, color)
        for x, point in zip(where, chain)
        if point.role == "student"
    ]


# --------------------------------------------------------------------------------------------- time


def score_by_time(lines: Sequence[Timeline]) -> Figure | None:
    """Score against seconds of work (Table 4).

    A panel per benchmark shows the measured policies; another one shows the validation scores of
    kept steps.
    """
    arms = [line.arm for line in lines]
    benchmarks = list(
        dict.fromkeys(
            name for line in lines for _, policy in line.policies for name in policy.scores
        )
    )
    kept = any(run for line in lines for run in line.kept)
    seconds = [x for line in lines for x, _ in line.policies] + [
        x for line in lines for run in line.kept for x, _ in run
    ]
    if not (count := len(benchmarks) + kept) or max(seconds) <= 0:
        return None
    unit, size = time_unit(max(seconds))
    with rc_context(STYLE):
        figure, rows, columns = grid(count, 6.2, 4.4, 2)
        first: Axes | None = None
        for number, benchmark in enumerate(benchmarks):
            axes = figure.add_subplot(rows, columns, number + 1, sharex=first)
            first = first or axes
            score = None
            for line in lines:
                places = [
                    (x / size, policy) for x, policy in line.policies if benchmark in policy.scores
                ]
                style: Any = {
                    "color": arm_color(line.arm, arms),
                    "linestyle": arm_dash(line.arm, arms),
                }
                axes.plot(
                    [x for x, _ in places],
                    [100 * policy.scores[benchmark].avg for _, policy in places],
                    linewidth=1,
                    alpha=0.6,
                    zorder=1,
                    **style,
                )
                for x, policy in places:
                    _dot(axes, x, policy, benchmark, arms)
                    score = policy.scores[benchmark]
            assert score is not None
            _title(axes, benchmark, score)
            _clock(axes, unit)
        if kept:
            axes = figure.add_subplot(rows, columns, count, sharex=first)
            for line in lines:
                for run in line.kept:
                    values = [x / size for x, _ in run], [100 * y for _, y in run]
                    axes.plot(
                        *values,
                        marker=".",
                        color=arm_color(line.arm, arms),
                        linestyle=arm_dash(line.arm, arms),
                        linewidth=1.2,
                    )
            axes.set_title("Validation score of kept steps")
            axes.set_ylabel("%")
            _clock(axes, unit)
        roles = role_handles(policy.role for line in lines for _, policy in line.policies)
        legend(figure, [*arm_handles(arms), *roles])
    return figure


def _clock(axes: Axes, unit: str) -> None:
    axes.set_xlabel(f"{unit} of work, cumulative")
    axes.margins(x=0.05, y=0.1)
