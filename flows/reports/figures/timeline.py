"""The timeline of a campaign's report: a Gantt chart of stages by the resources that they held."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from flows.reports.figures.campaign import (
    GREY,
    INK,
    PHASE_COLORS,
    STYLE,
    new_figure,
)
from flows.reports.figures.style import legend, short
from flows.reports.timeline_bars import bars
from flows.reports.timeline_text import HOURS_FROM, headline, offered, span
from tasks.execution.timeline import Session, StageRun, Timeline
from tasks.untrusted.display_text import one_line

OTHER, OTHER_COLOR = "problems and model", "#b8bcc2"
"""Name and colour of stages without a phase."""
WIDTH, DPI = 11.0, 144
"""Inches, and dots per inch."""
HOURS = (0.25, 0.5, 1.0, 2.0, 4.0, 6.0, 12.0, 24.0, 48.0, 168.0)
"""Distances between the ticks of a long campaign, hours."""
EVERY = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Distances between the iterations that are named."""
TALLEST = 7.0
"""Largest height of all nodes together, inches."""
WAITING: Any = {"facecolor": "white", "edgecolor": "#c3c8cf", "hatch": "....."}
"""Look of start-up and close-down."""
CUT: Any = {"edgecolor": "white", "hatch": "//////"}
"""Look of a stage that did not finish, over its colour."""
STORED: Any = {"marker": "^", "markersize": 5, "color": INK, "linestyle": ""}
"""Mark of a result that was found in the store."""
LETTERS = 7.2
"""Font size of the labels in bars, points."""


@dataclass(frozen=True)
class Layout:
    """Where sessions and nodes are on the axes."""

    starts: Sequence[float]
    """Where each session begins on the x axis, seconds."""
    tops: dict[str, float]
    """Node -> where it begins on the y axis, which points down, in the timeline's unit."""
    capacity: dict[str, float]
    """Node -> the most that it offered in a session."""
    spare: tuple[float, float] | None
    """Row of the stages that hold nothing that is counted, if there are any."""
    bottom: float
    height: float
    """Inches."""


def timeline_chart(timeline: Timeline) -> Figure:
    """Stages by node and by the resources that they held, over the running time of the campaign.

    White is idle. Sessions follow each other without the time between them. A dotted line is where
    an iteration begins, a solid one where a session does.
    """
    layout = _layout(timeline)
    with rc_context(STYLE):
        figure = new_figure(WIDTH, layout.height + 1.75 + 0.2 * (len(timeline.sessions) > 1))
        axes = figure.add_subplot()
        axes.set_xlim(0, max(timeline.seconds, 1e-3))
        axes.set_ylim(layout.bottom, 0)
        _draw_nodes(axes, timeline, layout)
        written = []
        for session, start in zip(timeline.sessions, layout.starts, strict=True):
            _draw_phases(axes, session, start, layout)
            written += _draw_bars(axes, session, start, layout)
        _draw_clock(axes, timeline)
        axes.set_title(headline(timeline), pad=22 + 12 * (len(timeline.sessions) > 1))
        legend(figure, _handles(timeline))
        figure.draw_without_rendering()
        _write_iterations(axes, timeline, layout.starts)
        for x, y, width, height, run in written:
            _write_label(axes, (x, y, width, height), run)
    return figure


def _layout(timeline: Timeline) -> Layout:
    sessions = timeline.sessions
    capacity: dict[str, float] = {}
    for session in sessions:
        for node, amount in session.capacity.items():
            capacity[node] = max(capacity.get(node, 0.0), amount)
    amounts = [run.amount for session in sessions for run in session.runs]
    largest = max(amounts) or 1.0
    gap, tops, y = 0.15 * largest, {}, 0.0
    for node, amount in capacity.items():
        tops[node] = y
        y += amount + gap
    spare = None
    if min(amounts) <= 0:
        spare = y, y + 0.35 * largest
        y = spare[1] + gap
    starts = [
        sum(session.seconds for session in sessions[:place]) for place in range(len(sessions))
    ]
    bottom = max(y - gap, 1e-3)
    height = min(TALLEST, max(1.15, 0.7 * bottom / largest))
    return Layout(starts, tops, capacity, spare, bottom, height)


def _draw_nodes(axes: Axes, timeline: Timeline, layout: Layout) -> None:
    """Draw the frame of each node and its units, and name it."""
    places, names = [], []
    for node, amount in layout.capacity.items():
        top = layout.tops[node]
        if layout.height * amount / layout.bottom / max(amount, 1) >= 0.1:
            inner = [top + unit for unit in range(1, int(amount) + (amount % 1 > 0))]
            axes.hlines(inner, 0, timeline.seconds, color="#e6e8eb", linewidth=0.6, zorder=0.5)
        axes.hlines([top, top + amount], 0, timeline.seconds, color=GREY, linewidth=0.8, zorder=4)
        places.append(top + amount / 2)
        words = offered([amount], timeline.unit)
        names.append(f"{short(one_line(node), 18)}\n{words}" if len(layout.capacity) > 1 else words)
    if layout.spare:
        axes.hlines(layout.spare, 0, timeline.seconds, color=GREY, linewidth=0.8, zorder=4)
        places.append(sum(layout.spare) / 2)
        names.append("no GPU")
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)


def _draw_phases(axes: Axes, session: Session, start: float, layout: Layout) -> None:
    """Draw start-up and close-down, the results found in the store, and the begin of a session."""
    start_up, close_down = session.start_up or 0.0, session.close_down or 0.0
    close = start + session.seconds - close_down
    for node, amount in session.capacity.items():
        for x, seconds in ((start, start_up), (close, close_down)):
            corner = x, layout.tops[node]
            axes.add_patch(Rectangle(corner, seconds, amount, linewidth=0, zorder=1, **WAITING))
    if session.cached:
        times = [start + time - session.began for time, _ in session.cached]
        axes.plot(times, [layout.bottom] * len(times), clip_on=False, zorder=5, **STORED)
    if start > 0:
        axes.axvline(start, color=INK, linewidth=1.8, zorder=4.5)


def _draw_bars(
    axes: Axes, session: Session, start: float, layout: Layout
) -> list[tuple[float, float, float, float, StageRun]]:
    """Draw a session's stages.

    **Returns:** x, y, width and height of each bar, and its stage.
    """
    written = []
    for bar in bars(session):
        run = bar.run
        x, width = start + run.began - session.began, run.seconds
        top, height = layout.tops[bar.node] + bar.low, bar.high - bar.low
        if height <= 0 and layout.spare:
            top, height = layout.spare[0], layout.spare[1] - layout.spare[0]
        look = CUT if not run.finished else {"edgecolor": "white"}
        # White edges separate neighbours; on narrow bars they would cover the colour.
        edge = 0.7 if width * WIDTH * DPI > 5 * axes.get_xlim()[1] else 0.0
        axes.add_patch(
            Rectangle(
                (x, top), width, height, facecolor=_color(run), linewidth=edge, zorder=3, **look
            )
        )
        written.append((x, top, width, height, run))
    return written


def _color(run: StageRun) -> str:
    return PHASE_COLORS.get(run.phase or "", OTHER_COLOR)


def _draw_clock(axes: Axes, timeline: Timeline) -> None:
    hours = timeline.seconds >= HOURS_FROM
    size = 3600.0 if hours else 1.0
    if hours:
        step = next((step for step in HOURS if timeline.seconds / 3600 / step <= 14), 1000.0)
        count = int(timeline.seconds / 3600 / step) + 1
        axes.set_xticks([3600 * step * place for place in range(count)])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=12, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / size:,.4g}"))
    between = "; the time between sessions is left out" if len(timeline.sessions) > 1 else ""
    axes.set_xlabel(f"{'hours' if hours else 'seconds'} of running time{between}")


def _handles(timeline: Timeline) -> list[Any]:
    """Entries of the legend: the phases that occur, then the other marks that do."""
    runs = [run for session in timeline.sessions for run in session.runs]
    present = {run.phase for run in runs}
    handles: list[Any] = [
        Patch(facecolor=color, label=phase)
        for phase, color in PHASE_COLORS.items()
        if phase in present
    ]
    if None in present:
        handles.append(Patch(facecolor=OTHER_COLOR, label=OTHER))
    if not all(run.finished for run in runs):
        handles.append(Patch(facecolor=GREY, label="not finished", linewidth=0, **CUT))
    if any(session.start_up or session.close_down for session in timeline.sessions):
        handles.append(Patch(label="start-up, close-down", **WAITING))
    if any(session.cached for session in timeline.sessions):
        handles.append(Line2D([], [], label="found in the store", **STORED))
    return handles


# ------------------------------------------------------------------------------------------- labels


def _write_iterations(axes: Axes, timeline: Timeline, starts: Sequence[float]) -> None:
    """Mark where iterations begin, and name iterations and sessions.

    Of iterations without room for a name each, every second one is marked and named, or every
    fifth, and so on.
    """
    scale = _points_per_second(axes)
    before: float | None = None
    for number, (session, start) in enumerate(zip(timeline.sessions, starts), 1):
        begun: dict[int, float] = {}
        for run in session.runs:
            # A policy may be evaluated while the next iteration runs.
            if run.iteration is not None and run.iteration > max(begun, default=-1):
                begun[run.iteration] = start + run.began - session.began
        room = scale * session.seconds / max(1, len(begun))
        form = "iteration {}" if _letters(f"iteration {max(begun, default=0)}") <= room else "{}"
        widest = _letters(form.format(max(begun, default=0)))
        every = next((step for step in EVERY if step * room >= widest), EVERY[-1])
        for place, (iteration, x) in enumerate(begun.items()):
            if place and (iteration % every == 0 or form != "{}"):
                axes.axvline(x, color=INK, linewidth=0.9, linestyle=(0, (1.5, 2)), zorder=4.2)
            ends = [*list(begun.values())[place + 1 :], start + session.seconds]
            free = every * (ends[0] - x) * scale if iteration % every == 0 else 0.0
            names = ("base",) if iteration == 0 else (form.format(iteration), str(iteration))
            if fitting := [name for name in names if _letters(name) <= free]:
                _write_above(axes, x, fitting[0], 5, INK)
        gap = "" if before is None else f", {span(max(0.0, session.began - before))} later"
        for name in (f"session {number}{gap}", f"session {number}"):
            if len(timeline.sessions) > 1 and _letters(name) <= scale * session.seconds:
                _write_above(axes, start, name, 17, GREY)
                break
        before = session.ended


def _letters(name: str) -> float:
    """Width of a name above the axes, with the space around it, points."""
    return len(name) * 5.2 + 6


def _write_above(axes: Axes, x: float, name: str, up: float, color: str) -> None:
    """Write a name above the axes, from `x` on.

    **Arguments:**
        up: Distance from the axes, points.
    """
    axes.annotate(
        name,
        (x, 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(2, up),
        textcoords="offset points",
        fontsize=8.5,
        color=color,
        annotation_clip=False,
    )


def _points_per_second(axes: Axes) -> float:
    figure: Any = axes.figure
    return axes.get_window_extent().width / figure.dpi * 72 / axes.get_xlim()[1]


def _write_label(axes: Axes, box: tuple[float, float, float, float], run: StageRun) -> None:
    """Write a stage's label into its bar, across or upright; if it must be, its phase instead."""
    figure: Any = axes.figure
    x, y, width, height = box
    inches = axes.get_window_extent().height / figure.dpi
    across = width * _points_per_second(axes)
    upright = height / axes.get_ylim()[0] * inches * 72
    color = _color(run)
    halo = [] if run.finished else [withStroke(linewidth=4, foreground=color)]
    brief = re.sub(r" \([^)]*\)| on validation| under .*", "", run.label)
    for text in dict.fromkeys((run.label, brief, run.phase or OTHER)):
        length = len(text) * LETTERS * 0.58 + 4
        if across >= length and upright >= LETTERS + 2:
            rotation = 0
        elif upright >= length and across >= LETTERS + 1:
            rotation = 90
        else:
            continue
        axes.annotate(
            short(one_line(text), 60),
            (x + width / 2, y + height / 2),
            rotation=rotation,
            ha="center",
            va="center",
            fontsize=LETTERS,
            color="white" if _is_dark(color) else INK,
            path_effects=halo,
            zorder=5,
        )
        return


def _is_dark(color: str) -> bool:
    red, green, blue = to_rgb(color)
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
