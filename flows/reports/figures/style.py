"""Style of figures with several arms: a colour and dash per arm, markers, legends, labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from flows.reports.figures.campaign import GREY, ORDINAL, handle, new_figure

ARMS = (*ORDINAL[:6], "#8c564b", "#882255", "#117733", "#999933", "#332288", "#44aa99")
MARKERS = {"base": "s", "teacher": "^", "student": "o"}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
NAME = 26
"""Largest number of characters of an arm's name in a legend."""


def arm_color(arm: str, arms: Sequence[str]) -> str:
    """The colour of an arm, by its position among all arms."""
    return ARMS[list(arms).index(arm) % len(ARMS)]


def arm_dash(arm: str, arms: Sequence[str]) -> Any:
    """The dash of an arm: solid for up to four arms.

    Of more arms, each third has its own dash, so that arms of similar colours can be distinguished.
    """
    return DASHES[
        list(arms).index(arm) * len(DASHES) // max(len(arms), len(DASHES)) if len(arms) > 4 else 0
    ]


def short(text: str, length: int = NAME) -> str:
    """A name for a figure: shortened to `length` characters, with `$` escaped for matplotlib."""
    return (text if len(text) <= length else text[: length - 1] + "…").replace("$", r"\$")


def all_arms(order: Iterable[str], placed: Iterable[Any]) -> list[str]:
    """All arms, those in `order` first.

    An arm of `order` counts even if nothing of it is drawn, so that the colours of the others stay
    the same in every figure.
    """
    return list(dict.fromkeys([*order, *(item.arm for item in placed)]))


def arm_handles(arms: Sequence[str]) -> list[Line2D]:
    """Legend entries of arms: colour and dash."""
    return [
        Line2D(
            [],
            [],
            color=arm_color(arm, arms),
            linestyle=arm_dash(arm, arms),
            linewidth=2,
            label=short(arm),
        )
        for arm in arms
    ]


def role_handles(roles: Iterable[str]) -> list[Line2D]:
    """Legend entries of the roles that occur; teachers are hollow, as in the panels."""
    hollow: Any = {
        "linestyle": "",
        "markersize": 7,
        "markerfacecolor": "white",
        "markeredgewidth": 1.4,
    }
    present = set(roles)
    return [
        Line2D([], [], color=GREY, marker=marker, label=role, **hollow)
        if role == "teacher"
        else handle(role, GREY, marker)
        for role, marker in MARKERS.items()
        if role in present
    ]


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Add a legend below the panels, with as many columns as fit."""
    longest = max((len(str(item.get_label())) for item in handles), default=0)
    room = max(1, int(figure.get_figwidth() / (0.6 + 0.083 * longest)))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 7, room), fontsize=9
    )


def grid(count: int, width: float, height: float, most: int) -> tuple[Figure, int, int]:
    """A figure for `count` panels, its number of rows, and its number of columns.

    **Arguments:**
        width: Width of a panel in inches.
        height: Height of a panel in inches.
        most: Largest number of columns.
    """
    columns = min(count, most)
    rows = math.ceil(count / columns)
    return new_figure(8.6 if columns == 1 else width * columns, height * rows + 0.6), rows, columns


def look(role: str, color: str) -> dict[str, Any]:
    """The marker style of a policy; teachers are hollow, so that students stand out."""
    edge = (
        {"markerfacecolor": "white", "markeredgewidth": 1.4}
        if role == "teacher"
        else {"markeredgecolor": "white"}
    )
    return {"color": color, "marker": MARKERS.get(role, "D"), "markersize": 7, **edge}


# -------------------------------------------------------------------------------------------- names


@dataclass(frozen=True)
class Name:
    """A label for a dot."""

    text: str
    place: tuple[float, float]
    """Position of the dot, in data coordinates."""
    span: tuple[float, float]
    """The dot's interval on the y axis, which the label must not hide."""
    color: str


SPOTS = tuple(
    (reach * math.cos(math.radians(turn)), reach * math.sin(math.radians(turn)))
    for reach in (8, 12, 17)
    for turn in (30, -30, 150, 210, 0, 180, 55, -55, 125, 235)
)
"""Offsets of a label from its dot, in points; the first free one is used."""


def write_names(axes: Axes, names: Sequence[Name], down: bool = False) -> None:
    """Write labels next to their dots, in the given order.

    A label without room is left out; the legend has it. Call this after the figure's layout has
    been computed.

    **Arguments:**
        down: Try positions below the dot before those above it.
    """
    figure: Any = axes.figure
    scale = figure.dpi / 72
    taken: list[tuple[float, ...]] = []
    for name in names:
        (x, y), (_, low), (_, high) = (
            axes.transData.transform((name.place[0], value))
            for value in (name.place[1], *name.span)
        )
        taken += [
            (x - 5 * scale, y - 5 * scale, x + 5 * scale, y + 5 * scale),
            (x - 2 * scale, low, x + 2 * scale, high),
        ]
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


def _write(
    axes: Axes, text: str, place: tuple[float, float], offset: tuple[float, float], color: str
) -> None:
    side: Any = {
        "textcoords": "offset points",
        "ha": "right" if offset[0] < 0 else "left",
        "va": "center",
    }
    halo = [withStroke(linewidth=1.6, foreground="white")]
    note = axes.annotate(
        text, place, xytext=offset, color=color, fontsize=7.8, zorder=4, path_effects=halo, **side
    )
    note.set_in_layout(False)


def _inside(box: tuple[float, ...], room: tuple[float, ...]) -> bool:
    return box[0] >= room[0] and box[1] >= room[1] and box[2] <= room[2] and box[3] <= room[3]


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
