"""Figures of signals on the fixed batch.

They show how far students follow their teachers (Fig. 7) and where teachers moved (Fig. 10).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flows.reports.figures.campaign import BASE, ORDINAL, STYLE, new_figure
from flows.reports.figures.style import arm_color, arm_dash, arm_handles, grid, legend, short


def deviation(arms: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure | None:
    """The student's deviation from old divided by the teacher's (Fig. 7), a line per arm.

    The x axis is the teacher's deviation, in nats.
    """
    arms = {
        arm: [row for row in rows if row["teacher"] > 0 and math.isfinite(row["ratio"])]
        for arm, rows in arms.items()
    }
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
            axes.plot(
                *values, linestyle=arm_dash(arm, list(arms)), marker="o", markersize=3, color=color
            )
        axes.axhline(1, color=BASE, linewidth=1)
        axes.set_xscale("log")
        ratios = [row["ratio"] for arm in names for row in arms[arm]]
        if min(ratios) > 0 and max(ratios) > 20 * min(ratios):
            axes.set_yscale("log")
        axes.set_xlabel(
            "|log p(teacher) − log p(old)| per token, nats; mean of a group of tokens (log scale)"
        )
        axes.set_ylabel(
            "|student − old| / |teacher − old|"
            + (" (log scale)" if axes.get_yscale() == "log" else "")
        )
        handles = [line for arm, line in zip(arms, arm_handles(list(arms))) if arm in names]
        legend(
            figure,
            [*handles, Line2D([], [], color=BASE, linewidth=1, label="as far as the teacher")],
        )
    return figure


OUTCOMES = (
    ("positive", "right responses", ORDINAL[0]),
    ("negative", "wrong responses", ORDINAL[1]),
)


def log_ratios(arms: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure | None:
    """Histograms of the teacher's log-ratio to old per token (Fig. 10).

    A panel per arm shows right and wrong responses; numbers of tokens are on a log scale.

    **Arguments:**
        arms: Arm -> outcome -> histogram (`edges`, in nats, and `counts`).
    """
    arms = {
        arm: histograms
        for arm, histograms in arms.items()
        if any(sum(histogram["counts"]) for histogram in histograms.values())
    }
    if not arms:
        return None
    with rc_context(STYLE):
        figure, rows, columns = grid(len(arms), 4.1, 2.7, 3)
        first: Axes | None = None
        for number, (arm, histograms) in enumerate(arms.items()):
            axes = figure.add_subplot(rows, columns, number + 1, sharex=first, sharey=first)
            first = first or axes
            axes.set_yscale("log")
            for outcome, _, color in OUTCOMES:
                if outcome in histograms:
                    low, high = histograms[outcome]["edges"]
                    counts = histograms[outcome]["counts"]
                    edges = [
                        low + (high - low) * bin / len(counts) for bin in range(len(counts) + 1)
                    ]
                    axes.stairs(counts, edges, color=color, linewidth=1.3, fill=False, baseline=0.7)
                    axes.stairs(counts, edges, color=color, alpha=0.18, fill=True, baseline=0.7)
            axes.axvline(0, color=BASE, linewidth=0.8)
            axes.set_ylim(bottom=0.7)
            axes.set_title(short(arm, 34))
            axes.set_xlabel("log p(teacher) − log p(old), nats", fontsize=8.5)
            if number % columns == 0:
                axes.set_ylabel("tokens (log scale)", fontsize=8.5)
        legend(
            figure,
            [
                Line2D([], [], color=color, linewidth=2.2, label=label)
                for _, label, color in OUTCOMES
            ],
        )
    return figure
