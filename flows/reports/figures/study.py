"""The pictures of a study, drawn from plain values: gains beside the paper's, score against KL,
against iteration, against time.

As in `flows/reports/figures/campaign.py` every function returns a figure of its own, or None when
there is nothing to draw. An arm has one colour in all of them (`order`: all arms of the study), and
up to a dozen stay apart.
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
    """Points a policy gained over its base, with a 95 % interval, and the paper's points where it
    has a row.

    Example: `Gained("ce", "student 1", "student", 27.0, 22.8, 31.2, paper=4.8)`
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
    """A measured policy among those of several arms.

    Example: `Placed("ce", "student", 1, 0.05, {"test": score}, strategy="S1")`
    """

    arm: str
    role: str
    iteration: int
    kl: float
    """KL(policy || base), nats per token."""
    scores: Mapping[str, Score]
    strategy: str = ""
    """Of the iteration: S1, S2, S3, online, none, stop."""


@dataclass(frozen=True)
class Timeline:
    """An arm's policies by the work done until they were there.

    Example: `Timeline("ce", [(0.0, base), (140.0, teacher)], kept=[[(60.0, 0.71), (120.0, 0.74)]])`
    """

    arm: str
    policies: Sequence[tuple[float, Placed]]
    """Seconds, policy."""
    kept: Sequence[Sequence[tuple[float, float]]] = field(default_factory=tuple)
    """For each training run: seconds and validation score (of 1) of the steps that were kept."""


# -------------------------------------------------------------------------------------------- gains


def gains(rows: Sequence[Gained], order: Sequence[str] = ()) -> Figure | None:
    """Our gain over the base per policy, with its interval; beside it the paper's, where it has
    the row.
    """
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
        axes.set_xlabel("points over the own base, mean over the benchmarks  (95 % interval)")
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
    """Score against KL to base, a panel per benchmark: every policy of every arm, and the front
    of those that no other beats.
    """
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
        figure.draw_without_rendering()  # places are known in pixels once the layout is
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
    """A policy with its interval."""
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
    """Arm, and iteration where an arm has several; the front first, then students."""
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
    found = []
    for point in sorted(
        points,
        key=lambda one: ((one.kl, one.scores[benchmark].avg) not in front, rank.get(one.role, 3)),
    ):
        named = (
            base
            if point.role == "base"
            else f"{{}} {point.iteration}"
            if point.arm in several
            else "{}"
        )
        text = named.format(short(point.arm, 18))
        found.append(
            _name(
                point,
                point.kl,
                text,
                benchmark,
                BASE if point.role == "base" else arm_color(point.arm, arms),
            )
        )
    return found


# ------------------------------------------------------------------------------------------- stages


def stages(points: Sequence[Placed], order: Sequence[str] = ()) -> Figure | None:
    """Score by iteration, a line per arm through base and students, each named by what its
    iteration did; teachers stand hollow beside.
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
            axes.set_xlabel("iteration (beside a student: what it did)")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(axis="x", visible=False)
            axes.margins(x=0.08, y=0.12)
        drawn = {point.arm for point in points}
        handles = [one for arm, one in zip(arms, arm_handles(arms)) if arm in drawn]
        legend(figure, [*handles, *role_handles(point.role for point in points)])
        figure.draw_without_rendering()
        for axes, names in written:
            write_names(axes, names, down=True)
    return figure


def _line(
    axes: Axes, points: Sequence[Placed], benchmark: str, arms: Sequence[str], shift: float
) -> list[Name]:
    """An arm's chain of students from the base; the names of what their iterations did. Arms
    stand a little apart, their base does not.
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
    """Score against the seconds of work done until then (Table 4): measured policies per
    benchmark, kept steps on validation.
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
                    [100 * one.scores[benchmark].avg for _, one in places],
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
