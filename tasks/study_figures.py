"""The pictures of a study, drawn from plain values: gains beside the paper's, score against KL, against iteration, against time; signals.

As in `tasks/figures.py` every function returns a figure of its own, or None when there is nothing to draw. An arm has one colour in all of
them (`order`: all arms of the study), and up to a dozen stay apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from erpd_core.refs import Score
from tasks.figures import BASE, FRONT, GREY, INK, ORDINAL, STYLE, handle, kl_axis, new_figure, pareto_front, time_unit

ARMS = (*ORDINAL[:6], "#8c564b", "#882255", "#117733", "#999933", "#332288", "#44aa99")
MARKERS = {"base": "s", "teacher": "^", "student": "o"}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
NAME = 26
"""Letters of an arm's name that a legend shows."""


@dataclass(frozen=True)
class Gained:
    """Points a policy gained over its base, with a 95 % interval, and the paper's points where it has a row.

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

    Example: `Timeline("ce", [(0.0, "base", base), (140.0, "teacher", teacher)], kept=[(0.0, 0.55), (60.0, 0.71), (120.0, 0.74)])`
    """

    arm: str
    policies: Sequence[tuple[float, Placed]]
    """Seconds, policy."""
    kept: Sequence[Sequence[tuple[float, float]]] = field(default_factory=tuple)
    """For each training run: seconds and validation score (of 1) of the steps that were kept."""


def arm_color(arm: str, arms: Sequence[str]) -> str:
    """The base is nobody's; every arm has the colour of its place."""
    return ARMS[list(arms).index(arm) % len(ARMS)]


def _dash(arm: str, arms: Sequence[str]) -> Any:
    return DASHES[list(arms).index(arm) * len(DASHES) // max(len(arms), len(DASHES)) if len(arms) > 4 else 0]


def short(text: str, length: int = NAME) -> str:
    """A name as a picture shows it: of bounded length, and never taken for a formula."""
    return (text if len(text) <= length else text[: length - 1] + "…").replace("$", r"\$")


def _arms(order: Iterable[str], placed: Iterable[Any]) -> list[str]:
    """All arms, those in `order` first, so that an arm without a policy of its own does not move the colours of the others."""
    return list(dict.fromkeys([*order, *(one.arm for one in placed)]))


def _arm_handles(arms: Sequence[str]) -> list[Line2D]:
    return [Line2D([], [], color=arm_color(arm, arms), linestyle=_dash(arm, arms), linewidth=2, label=short(arm)) for arm in arms]


def _role_handles(roles: Iterable[str]) -> list[Line2D]:
    """Markers of the roles that occur: teachers hollow, as they are drawn."""
    hollow: Any = {"linestyle": "", "markersize": 7, "markerfacecolor": "white", "markeredgewidth": 1.4}
    present = set(roles)
    return [
        Line2D([], [], color=GREY, marker=marker, label=role, **hollow) if role == "teacher" else handle(role, GREY, marker)
        for role, marker in MARKERS.items()
        if role in present
    ]


def _legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Below everything, in as many columns as there is room for."""
    longest = max((len(str(one.get_label())) for one in handles), default=0)
    room = max(1, int(figure.get_figwidth() / (0.6 + 0.083 * longest)))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7, room), fontsize=9)


def _grid(count: int, width: float, height: float, most: int) -> tuple[Figure, int, int]:
    columns = min(count, most)
    rows = math.ceil(count / columns)
    return new_figure(8.6 if columns == 1 else width * columns, height * rows + 0.6), rows, columns


# ----------------------------------------------------------------------------------------------------------------------- gains


def gains(rows: Sequence[Gained], order: Sequence[str] = ()) -> Figure | None:
    """Our gain over the base per policy, with its interval; beside it the paper's, where it has the row."""
    rows = [row for row in rows if math.isfinite(row.points)]
    if not rows:
        return None
    arms = _arms(order, rows)
    with rc_context(STYLE):
        figure = new_figure(8.6, 1.3 + 0.26 * len(rows) + 0.12 * len(arms))
        axes = figure.add_subplot()
        place, ticks = 0.0, []
        for number, row in enumerate(rows):
            if number and row.arm != rows[number - 1].arm:
                place += 0.4
            color = arm_color(row.arm, arms)
            bar: Any = {"xerr": [[max(0.0, row.points - row.low)], [max(0.0, row.high - row.points)]], "capsize": 2.5, "elinewidth": 1.3}
            axes.errorbar(row.points, place, **_look(row.role, color), **bar)
            if row.paper is not None:
                axes.plot(row.paper, place, "D", color=INK, markerfacecolor="none", markersize=7.5, markeredgewidth=1.3, zorder=4)
            ticks.append((place, short(f"{row.arm}, {row.name}", 44)))
            place += 1
        axes.axvline(0, color=BASE, linewidth=1)
        axes.set_yticks([where for where, _ in ticks], [text for _, text in ticks])
        axes.set_ylim(place - 0.3, -0.7)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("points over the own base, mean over the benchmarks  (95 % interval)")
        handles = _role_handles(row.role for row in rows)
        if any(row.paper is not None for row in rows):
            handles.append(
                Line2D([], [], color=INK, marker="D", linestyle="", markerfacecolor="none", markersize=7.5, label="the paper's gain")
            )
        _legend(figure, handles)
    return figure


# ------------------------------------------------------------------------------------------------------------------ efficiency


def efficiency(points: Sequence[Placed], order: Sequence[str] = ()) -> Figure | None:
    """Score against KL to base, a panel per benchmark: every policy of every arm, and the front of those that no other beats."""
    points = [point for point in points if math.isfinite(point.kl)]
    benchmarks = list(dict.fromkeys(name for point in points for name in point.scores))
    if not benchmarks:
        return None
    arms = _arms(order, points)
    shown = [arm for arm in arms if any(point.arm == arm and point.role != "base" for point in points)]
    with rc_context(STYLE):
        figure, rows, columns = _grid(len(benchmarks), 6.2, 4.9, 2)
        panels = [(name, figure.add_subplot(rows, columns, number + 1)) for number, name in enumerate(benchmarks)]
        for benchmark, axes in panels:
            _policies(axes, [point for point in points if benchmark in point.scores], benchmark, arms)
        handles: list[Line2D] = [handle(short(arm), arm_color(arm, arms), "o") for arm in shown]
        handles += _role_handles(point.role for point in points)
        handles.append(Line2D([], [], color=FRONT, linestyle=(0, (5, 2)), linewidth=1.2, label="Pareto front"))
        _legend(figure, handles)
        figure.draw_without_rendering()  # places are known in pixels once the layout is
        for benchmark, axes in panels:
            _names(axes, _policy_names([point for point in points if benchmark in point.scores], benchmark, arms))
    return figure


def _policies(axes: Axes, points: Sequence[Placed], benchmark: str, arms: Sequence[str]) -> None:
    kl_axis(axes, [point.kl for point in points])
    front = pareto_front((point.kl, 100 * point.scores[benchmark].avg) for point in points)
    axes.step(*zip(*front), where="post", color=FRONT, linestyle=(0, (5, 2)), linewidth=1.2, zorder=1)
    for point in points:
        _dot(axes, point.kl, point, benchmark, arms)
    _title(axes, benchmark, points[0].scores[benchmark])


def _dot(axes: Axes, x: float, point: Placed, benchmark: str, arms: Sequence[str]) -> None:
    """A policy with its interval."""
    score = point.scores[benchmark]
    y = 100 * score.avg
    color = BASE if point.role == "base" else arm_color(point.arm, arms)
    bars = [[max(0.0, y - 100 * score.ci95[0])], [max(0.0, 100 * score.ci95[1] - y)]]
    axes.errorbar(x, y, yerr=bars, capsize=2, elinewidth=0.9, zorder=3 if point.role == "student" else 2.5, **_look(point.role, color))


def _look(role: str, color: str) -> dict[str, Any]:
    """How a policy is marked; teachers are hollow, so that students stand out."""
    edge = {"markerfacecolor": "white", "markeredgewidth": 1.4} if role == "teacher" else {"markeredgecolor": "white"}
    return {"color": color, "marker": MARKERS.get(role, "D"), "markersize": 7, **edge}


def _title(axes: Axes, benchmark: str, score: Score) -> None:
    axes.set_title(benchmark.replace("$", r"\$"))
    axes.set_ylabel(f"AVG@{score.k} on {score.problems} problems, %  (95 % interval)")


@dataclass(frozen=True)
class _Name:
    """A name for a dot, in data coordinates, and the interval that it must not hide."""

    text: str
    place: tuple[float, float]
    span: tuple[float, float]
    color: str


SPOTS = tuple(
    (reach * math.cos(math.radians(turn)), reach * math.sin(math.radians(turn)))
    for reach in (8, 12, 17)
    for turn in (30, -30, 150, 210, 0, 180, 55, -55, 125, 235)
)
"""Where a name may stand, in points from its dot; the first free spot is taken."""


def _names(axes: Axes, names: Sequence[_Name], down: bool = False) -> None:
    """Write the names, first come first served, above their dots by preference or below; one without room is left to the legend.

    The figure's layout must be settled.
    """
    figure: Any = axes.figure
    scale = figure.dpi / 72
    taken: list[tuple[float, ...]] = []
    for name in names:
        (x, y), (_, low), (_, high) = (axes.transData.transform((name.place[0], value)) for value in (name.place[1], *name.span))
        taken += [(x - 5 * scale, y - 5 * scale, x + 5 * scale, y + 5 * scale), (x - 2 * scale, low, x + 2 * scale, high)]
    frame = axes.get_window_extent()
    room = (frame.x0, frame.y0, frame.x1, frame.y1)
    for name in names:
        width, height = (len(name.text) * 4.9 + 1) * scale, 9 * scale
        x, y = axes.transData.transform(name.place)
        for dx, up in SPOTS:
            dy = -up if down else up
            left = x + dx * scale - (width if dx < 0 else 0)
            box = (left, y + dy * scale - height / 2, left + width, y + dy * scale + height / 2)
            if _inside(box, room) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                _write(axes, name.text, name.place, (dx, dy), name.color)
                break


def _name(point: Placed, x: float, text: str, benchmark: str, color: str) -> _Name:
    score = point.scores[benchmark]
    return _Name(text, (x, 100 * score.avg), (100 * score.ci95[0], 100 * score.ci95[1]), color)


def _policy_names(points: Sequence[Placed], benchmark: str, arms: Sequence[str]) -> list[_Name]:
    """Arm, and iteration where an arm has several; the front first, then students."""
    front = set(pareto_front((point.kl, point.scores[benchmark].avg) for point in points))
    rank = {"student": 0, "base": 1, "teacher": 2}
    several = {arm for arm in arms if len({point.iteration for point in points if point.arm == arm and point.role != "base"}) > 1}
    base = "{} base" if len({(point.arm, point.scores[benchmark].avg) for point in points if point.role == "base"}) > 1 else "base"
    found = []
    for point in sorted(points, key=lambda one: ((one.kl, one.scores[benchmark].avg) not in front, rank.get(one.role, 3))):
        text = (
            base.format(short(point.arm, 18))
            if point.role == "base"
            else f"{short(point.arm, 18)}{f' {point.iteration}' if point.arm in several else ''}"
        )
        found.append(_name(point, point.kl, text, benchmark, BASE if point.role == "base" else arm_color(point.arm, arms)))
    return found


def _write(axes: Axes, text: str, place: tuple[float, float], offset: tuple[float, float], color: str) -> None:
    side: Any = {"textcoords": "offset points", "ha": "right" if offset[0] < 0 else "left", "va": "center"}
    halo = [withStroke(linewidth=1.6, foreground="white")]
    note = axes.annotate(text, place, xytext=offset, color=color, fontsize=7.8, zorder=4, path_effects=halo, **side)
    note.set_in_layout(False)


def _inside(box: tuple[float, ...], room: tuple[float, ...]) -> bool:
    return box[0] >= room[0] and box[1] >= room[1] and box[2] <= room[2] and box[3] <= room[3]


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# ---------------------------------------------------------------------------------------------------------------------- stages


def stages(points: Sequence[Placed], order: Sequence[str] = ()) -> Figure | None:
    """Score by iteration, a line per arm through base and students, each named by what its iteration did; teachers stand hollow beside."""
    benchmarks = list(dict.fromkeys(name for point in points for name in point.scores))
    if not benchmarks or not any(point.role == "student" for point in points):
        return None
    arms = _arms(order, points)
    with rc_context(STYLE):
        figure, rows, columns = _grid(len(benchmarks), 6.2, 4.4, 2)
        written: list[tuple[Axes, list[_Name]]] = []
        for number, benchmark in enumerate(benchmarks):
            axes = figure.add_subplot(rows, columns, number + 1)
            here = [point for point in points if benchmark in point.scores]
            names: list[_Name] = []
            for place, arm in enumerate(arms):
                shift = (place - (len(arms) - 1) / 2) * min(0.055, 0.5 / len(arms))
                names += _line(axes, [point for point in here if point.arm == arm], benchmark, arms, shift)
            written.append((axes, names))
            _title(axes, benchmark, here[0].scores[benchmark])
            axes.set_xlabel("iteration (beside a student: what it did)")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(axis="x", visible=False)
            axes.margins(x=0.08, y=0.12)
        drawn = {point.arm for point in points}
        handles = [one for arm, one in zip(arms, _arm_handles(arms)) if arm in drawn]
        _legend(figure, [*handles, *_role_handles(point.role for point in points)])
        figure.draw_without_rendering()
        for axes, names in written:
            _names(axes, names, down=True)
    return figure


def _line(axes: Axes, points: Sequence[Placed], benchmark: str, arms: Sequence[str], shift: float) -> list[_Name]:
    """An arm's chain of students from the base; the names of what their iterations did. Arms stand a little apart, their base does not."""
    chain = [point for point in points if point.role in ("base", "student")]
    if not chain:
        return []
    color = arm_color(chain[0].arm, arms)
    where = [point.iteration + (shift if point.iteration else 0.0) for point in chain]
    scores = [100 * point.scores[benchmark].avg for point in chain]
    axes.plot(where, scores, linestyle=_dash(chain[0].arm, arms), color=color, linewidth=1.4, zorder=2)
    for point in points:
        if point.role == "teacher":
            look = _look("teacher", color) | {"markersize": 4.5, "markeredgewidth": 1.0}
            axes.plot(point.iteration + shift, 100 * point.scores[benchmark].avg, linestyle="", alpha=0.8, **look)
    for x, point in zip(where, chain):
        _dot(axes, x, point, benchmark, arms)
    return [_name(point, x, point.strategy, benchmark, color) for x, point in zip(where, chain) if point.role == "student"]


# -------------------------------------------------------------------------------------------------------------------- deviation


def deviation(arms: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure | None:
    """Student's over teacher's deviation from old, by how far the teacher went (Fig. 7): a line per arm."""
    arms = {arm: [row for row in rows if row["teacher"] > 0 and math.isfinite(row["ratio"])] for arm, rows in arms.items()}
    names = [arm for arm, rows in arms.items() if rows]
    if not names:
        return None
    with rc_context(STYLE):
        figure = new_figure(8.6, 4.8)
        axes = figure.add_subplot()
        for arm in names:
            rows = sorted(arms[arm], key=lambda row: row["teacher"])
            values = [row["teacher"] for row in rows], [row["ratio"] for row in rows]
            color = arm_color(arm, list(arms))
            axes.plot(*values, linestyle=_dash(arm, list(arms)), marker="o", markersize=3, color=color)
        axes.axhline(1, color=BASE, linewidth=1)
        axes.set_xscale("log")
        ratios = [row["ratio"] for arm in names for row in arms[arm]]
        if min(ratios) > 0 and max(ratios) > 20 * min(ratios):
            axes.set_yscale("log")
        axes.set_xlabel("|log p(teacher) − log p(old)| per token, nats; mean of a group of tokens (log scale)")
        axes.set_ylabel("|student − old| / |teacher − old|" + (" (log scale)" if axes.get_yscale() == "log" else ""))
        handles = [one for arm, one in zip(arms, _arm_handles(list(arms))) if arm in names]
        _legend(figure, [*handles, Line2D([], [], color=BASE, linewidth=1, label="as far as the teacher")])
    return figure


# ------------------------------------------------------------------------------------------------------------------- log-ratios

OUTCOMES = (("positive", "right responses", ORDINAL[0]), ("negative", "wrong responses", ORDINAL[1]))


def log_ratios(arms: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure | None:
    """The teacher's log-ratio to old per token, on right and on wrong responses (Fig. 10): a panel per arm, tokens on a log scale."""
    arms = {arm: found for arm, found in arms.items() if any(sum(one["counts"]) for one in found.values())}
    if not arms:
        return None
    with rc_context(STYLE):
        figure, rows, columns = _grid(len(arms), 4.1, 2.7, 3)
        first: Axes | None = None
        for number, (arm, found) in enumerate(arms.items()):
            axes = figure.add_subplot(rows, columns, number + 1, sharex=first, sharey=first)
            first = first or axes
            axes.set_yscale("log")
            for outcome, _, color in OUTCOMES:
                if outcome in found:
                    low, high = found[outcome]["edges"]
                    counts = found[outcome]["counts"]
                    edges = [low + (high - low) * bin / len(counts) for bin in range(len(counts) + 1)]
                    axes.stairs(counts, edges, color=color, linewidth=1.3, fill=False, baseline=0.7)
                    axes.stairs(counts, edges, color=color, alpha=0.18, fill=True, baseline=0.7)
            axes.axvline(0, color=BASE, linewidth=0.8)
            axes.set_ylim(bottom=0.7)
            axes.set_title(short(arm, 34))
            axes.set_xlabel("log p(teacher) − log p(old), nats", fontsize=8.5)
            if number % columns == 0:
                axes.set_ylabel("tokens (log scale)", fontsize=8.5)
        _legend(figure, [Line2D([], [], color=color, linewidth=2.2, label=label) for _, label, color in OUTCOMES])
    return figure


# ------------------------------------------------------------------------------------------------------------------------ time


def score_by_time(lines: Sequence[Timeline]) -> Figure | None:
    """Score against the seconds of work done until then (Table 4): measured policies per benchmark, kept steps on validation."""
    arms = [line.arm for line in lines]
    benchmarks = list(dict.fromkeys(name for line in lines for _, policy in line.policies for name in policy.scores))
    kept = any(run for line in lines for run in line.kept)
    seconds = [x for line in lines for x, _ in line.policies] + [x for line in lines for run in line.kept for x, _ in run]
    if not (count := len(benchmarks) + kept) or max(seconds) <= 0:
        return None
    unit, size = time_unit(max(seconds))
    with rc_context(STYLE):
        figure, rows, columns = _grid(count, 6.2, 4.4, 2)
        for number, benchmark in enumerate(benchmarks):
            axes = figure.add_subplot(rows, columns, number + 1)
            score = None
            for line in lines:
                places = [(x / size, policy) for x, policy in line.policies if benchmark in policy.scores]
                look: Any = {"color": arm_color(line.arm, arms), "linestyle": _dash(line.arm, arms)}
                axes.plot(
                    [x for x, _ in places], [100 * one.scores[benchmark].avg for _, one in places], linewidth=1, alpha=0.6, zorder=1, **look
                )
                for x, policy in places:
                    _dot(axes, x, policy, benchmark, arms)
                    score = policy.scores[benchmark]
            assert score is not None
            _title(axes, benchmark, score)
            _clock(axes, unit)
        if kept:
            axes = figure.add_subplot(rows, columns, count)
            for line in lines:
                for run in line.kept:
                    values = [x / size for x, _ in run], [100 * y for _, y in run]
                    axes.plot(*values, marker=".", color=arm_color(line.arm, arms), linestyle=_dash(line.arm, arms), linewidth=1.2)
            axes.set_title("Validation score of kept steps")
            axes.set_ylabel("%")
            _clock(axes, unit)
        roles = _role_handles(policy.role for line in lines for _, policy in line.policies)
        _legend(figure, [*_arm_handles(arms), *roles])
    return figure


def _clock(axes: Axes, unit: str) -> None:
    axes.set_xlabel(f"{unit} of work, cumulative")
    axes.margins(x=0.05, y=0.1)
