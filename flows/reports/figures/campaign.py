"""Figures of a campaign's report: score against KL, training curves, time by phase.

Every function draws plain values and returns a new `Figure` (no pyplot, no global state), or None
if there is nothing to draw. `png` encodes a figure; the same values give the same bytes. The
colours are those of Okabe and Ito, which colour-blind readers can distinguish; markers and dashes
carry the same information.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from erpd_core.refs import Score

StepRecord = Mapping[str, float]

INK, GREY, FAINT = "#2b2f36", "#767c86", "#dfe2e6"
BASE, TEACHER, STUDENT, FRONT = "#55595f", "#d55e00", "#0072b2", "#009e73"
LOOK = {"base": (BASE, "s"), "teacher": (TEACHER, "^"), "student": (STUDENT, "o")}
ORDINAL = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#2b2f36")
PHASE_COLORS = {
    "rollouts": "#0072b2",
    "score": "#56b4e9",
    "teacher": "#d55e00",
    "distill": "#009e73",
    "validation": "#e69f00",
    "evaluate": "#cc79a7",
    "online": "#2b2f36",
}
"""Phase -> its colour, in the order of legends."""
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    **{f"{axis}tick.color": GREY for axis in "xy"},
    **{f"{axis}tick.labelcolor": INK for axis in "xy"},
    "lines.linewidth": 1.6,
    "legend.framealpha": 0.8,
    "legend.edgecolor": "none",
}


@dataclass(frozen=True)
class Point:
    """A measured policy.

    **Example:** `Point("student 1", "student", 1, 0.08, {"test": score}, start="base")`
    """

    name: str
    role: str
    iteration: int
    kl: float
    """KL(policy || base), nats per token."""
    scores: Mapping[str, Score]
    start: str | None = None
    """Name of the start of its iteration; None for the base."""


@dataclass(frozen=True)
class Run:
    """A training run: its records by step, and the validation scores of the kept steps.

    **Example:** `Run("iteration 1", 1, [{"step": 1, "loss": 0.7}], validation={20: 0.85},
    chosen=20)`
    """

    name: str
    number: int
    """Number of the run, from 1; it selects the colour."""
    records: Sequence[StepRecord]
    validation: Mapping[int, float] = field(default_factory=dict)
    """Step -> validation score, as a share of 1."""
    chosen: int | None = None
    """The kept step that validation chose, if any."""


def png(figure: Figure) -> bytes:
    """The figure as a PNG without date and version."""
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(
            buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None}
        )
    return buffer.getvalue()


# --------------------------------------------------------------------------------- score against KL


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (KL, score) pairs on the Pareto front, in order of KL.

    No other pair has at least the same score at less KL.
    """
    front: list[tuple[float, float]] = []
    for kl, score in sorted(points, key=lambda pair: (pair[0], -pair[1])):
        if not front or score > front[-1][1]:
            front.append((kl, score))
    return front


def score_against_kl(points: Sequence[Point]) -> Figure | None:
    """Score against KL to the base, one panel per benchmark.

    A panel shows every policy with its 95 % interval, the chain of students, and an arrow from each
    teacher to its student.
    """
    points = [point for point in points if math.isfinite(point.kl)]
    benchmarks = list(dict.fromkeys(name for point in points for name in point.scores))
    if not benchmarks:
        return None
    with rc_context(STYLE):
        columns = min(len(benchmarks), 2)
        rows = math.ceil(len(benchmarks) / columns)
        figure = new_figure(8.2 if columns == 1 else 11, 4.6 * rows + 0.4)
        for number, benchmark in enumerate(benchmarks):
            axes = figure.add_subplot(rows, columns, number + 1)
            _policies(axes, [point for point in points if benchmark in point.scores], benchmark)
        present = {point.role for point in points}
        handles = [
            handle(role, color, marker) for role, (color, marker) in LOOK.items() if role in present
        ]
        handles.append(
            Line2D(
                [],
                [],
                color=FRONT,
                linestyle=(0, (5, 2)),
                linewidth=1.2,
                label="Pareto front: highest score for its KL",
            )
        )
        if present - {"base"}:
            handles.append(Line2D([], [], color=STUDENT, linewidth=1.2, label="start to student"))
            handles.append(
                Line2D(
                    [],
                    [],
                    color=TEACHER,
                    linestyle=":",
                    linewidth=1.2,
                    label="teacher to its student",
                )
            )
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _policies(axes: Axes, points: Sequence[Point], benchmark: str) -> None:
    kl_axis(axes, [point.kl for point in points])
    place = {point.name: (point.kl, 100 * point.scores[benchmark].avg) for point in points}
    student_of = {point.iteration: point.name for point in points if point.role == "student"}
    front = pareto_front(place.values())
    axes.step(
        *zip(*front), where="post", color=FRONT, linestyle=(0, (5, 2)), linewidth=1.2, zorder=1
    )
    for point in points:
        if point.role == "student" and point.start in place:
            _arrow(axes, place[point.start], place[point.name], STUDENT, "-")
        elif point.role == "teacher" and point.iteration in student_of:
            _arrow(axes, place[point.name], place[student_of[point.iteration]], TEACHER, ":")
    for point in points:
        score = point.scores[benchmark]
        x, y = place[point.name]
        color, marker = LOOK.get(point.role, (GREY, "D"))
        below, above = max(0.0, y - 100 * score.ci95[0]), max(0.0, 100 * score.ci95[1] - y)
        mark: Any = {
            "color": color,
            "marker": marker,
            "markersize": 7.5,
            "markeredgecolor": "white",
        }
        axes.errorbar(x, y, yerr=[[below], [above]], capsize=2.5, elinewidth=1.2, zorder=3, **mark)
        label, left = (
            ("base", False)
            if point.role == "base"
            else (str(point.iteration), point.role == "student")
        )
        offset: Any = {
            "xytext": (-6, 5) if left else (7, -11),
            "textcoords": "offset points",
            "ha": "right" if left else "left",
        }
        halo = [withStroke(linewidth=2.5, foreground="white")]
        axes.annotate(
            label,
            (x, y),
            color=color,
            fontsize=9,
            fontweight="bold",
            zorder=2.5,
            path_effects=halo,
            **offset,
        )
    axes.set_title(benchmark.replace("$", r"\$") + "  (numbers: iteration)")
    axes.set_ylabel(f"AVG@{score.k} on {score.problems} problems, %  (95 % interval)")


def kl_axis(axes: Axes, values: Sequence[float]) -> None:
    """Label the KL axis, and choose its scale.

    It is logarithmic above a threshold if a linear one would crowd all but the farthest policies.
    """
    positive = sorted(value for value in values if value > 0)
    label = "KL(policy || base), nats per token"
    if positive and positive[-1] > 20 * positive[0]:
        axes.set_xscale("symlog", linthresh=positive[0])
        label += f" (logarithmic above {positive[0]:.2g})"
    axes.set_xlabel(label)
    axes.margins(x=0.08, y=0.1)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str, dash: str
) -> None:
    style = {
        "arrowstyle": "-|>",
        "color": color,
        "linestyle": dash,
        "linewidth": 1.2,
        "alpha": 0.75,
        "shrinkA": 6,
        "shrinkB": 7,
    }
    axes.annotate("", xy=end, xytext=start, arrowprops=style, zorder=2)


def handle(label: str, color: str, marker: str) -> Line2D:
    """A marker with its label, for a legend."""
    return Line2D([], [], color=color, marker=marker, linestyle="", markersize=7.5, label=label)


# ---------------------------------------------------------------------------------- training curves

Curves = tuple[tuple[str, str, Any], ...]
PANELS: tuple[tuple[str, str, Curves], ...] = (
    ("Loss", "loss", (("loss", "", "-"),)),
    (
        "Probability of the batch's tokens",
        "mean",
        (("prob_positive", "right responses", "-"), ("prob_negative", "wrong ones", "--")),
    ),
    ("Entropy", "nats per token", (("entropy", "", "-"),)),
    (
        "KL(old || θ) on the old batch",
        "nats per token (k3)",
        (("kl_old_theta_on_old_batch", "", "-"),),
    ),
    ("Explained variance", "share of outcome variance", (("explained_variance", "", "-"),)),
    (
        "Ratio θ / old per token",
        "ratio",
        (
            ("ratio_max", "largest", "--"),
            ("ratio_mean", "mean", "-"),
            ("ratio_min", "smallest", ":"),
        ),
    ),
    ("Tokens clipped", "% of tokens", (("clip_fraction", "", "-"),)),
    ("Gradient norm before clipping", "L2 norm", (("grad_norm", "", "-"),)),
    ("Right responses among fresh samples", "% of responses", (("reward_mean", "", "-"),)),
    ("KL(θ || start) on fresh samples", "nats per token (k1)", (("kl_theta_start", "", "-"),)),
    ("Length of fresh samples", "tokens per response", (("length_mean", "", "-"),)),
)
"""Title, unit, and the lines of a panel: key in the record, label, dash."""
SPREAD = {"ratio_max", "grad_norm"}
"""Drawn on a logarithmic scale if their values are far apart."""
PERCENT = {"clip_fraction", "reward_mean"}
"""Shares of 1 that are drawn in %."""


def training_curves(runs: Sequence[Run]) -> Figure | None:
    """Training curves by optimizer step: a panel per quantity, a colour per run.

    Panels without values are left out.
    """
    runs = [run for run in runs if run.records or run.validation]
    panels = [
        panel
        for panel in PANELS
        if any(_column(run, key) for run in runs for key, _, _ in panel[2])
    ]
    trail = any(run.validation for run in runs)
    if not (count := len(panels) + trail):
        return None
    columns = min(3, count)
    rows = math.ceil(count / columns)
    with rc_context(STYLE):
        figure = new_figure(3.9 * columns, 2.55 * rows + 0.35)
        for number, (title, unit, lines) in enumerate(panels, 1):
            _panel(figure.add_subplot(rows, columns, number), runs, title, unit, lines)
        if trail:
            _trail(figure.add_subplot(rows, columns, count), runs)
        handles = [
            Line2D([], [], color=_color(run.number, len(runs)), label=run.name, linewidth=2.2)
            for run in runs
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(handles), 6), fontsize=9
        )
    return figure


def _panel(axes: Axes, runs: Sequence[Run], title: str, unit: str, lines: Curves) -> None:
    scale = 100.0 if lines[0][0] in PERCENT else 1.0
    for run in runs:
        for key, _, dash in lines:
            steps = _column(run, key)
            if steps:
                marker = "." if len(steps) == 1 else None
                axes.plot(
                    list(steps),
                    [scale * value for value in steps.values()],
                    dash,
                    marker=marker,
                    color=_color(run.number, len(runs)),
                )
    if len(lines) > 1:
        handles = [
            Line2D([], [], color=GREY, linestyle=dash, label=label) for _, label, dash in lines
        ]
        axes.legend(handles=handles, fontsize=8, loc="best", handlelength=1.8)
    values = [value for run in runs for key, _, _ in lines for value in _column(run, key).values()]
    far = lines[0][0] in SPREAD and min(values) > 0 and max(values) > 20 * min(values)
    if far:
        axes.set_yscale("log")
    _by_step(axes, title, f"{unit} (log scale)" if far else unit)


def _trail(axes: Axes, runs: Sequence[Run]) -> None:
    for run in runs:
        steps = sorted(run.validation)
        color = _color(run.number, len(runs))
        axes.plot(
            steps, [100 * run.validation[step] for step in steps], "-o", color=color, markersize=4.5
        )
        if run.chosen is not None and run.chosen in run.validation:
            axes.plot(
                [run.chosen],
                [100 * run.validation[run.chosen]],
                marker="*",
                markersize=14,
                color=color,
                markeredgecolor="white",
            )
    if any(run.chosen in run.validation for run in runs):
        axes.legend(handles=[handle("chosen", GREY, "*")], fontsize=8, loc="best")
    _by_step(axes, "Validation score of kept steps", "%")
    axes.margins(x=0.08, y=0.15)
    if len(kept := sorted({step for run in runs for step in run.validation})) <= 8:
        axes.set_xticks(kept)


def _by_step(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_ylabel(unit, fontsize=8.5)
    axes.set_xlabel("optimizer step", fontsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.margins(x=0.03)


def _column(run: Run, key: str) -> dict[int, float]:
    """Step -> value, for steps with a finite value."""
    return {
        int(row["step"]): row[key] for row in run.records if key in row and math.isfinite(row[key])
    }


def _color(number: int, runs: int) -> Any:
    """The colour of a run: distinct colours if there are enough, else a dark-to-light sequence."""
    if max(number, runs) <= len(ORDINAL):
        return ORDINAL[(number - 1) % len(ORDINAL)]
    return colormaps["viridis"](0.9 * ((number - 1) % runs) / max(1, runs - 1))


# --------------------------------------------------------------------------------------------- time


def time_by_phase(seconds: Mapping[str, Mapping[str, float]]) -> Figure | None:
    """A stacked bar per iteration.

    **Arguments:**
        seconds: Name of the iteration -> phase -> seconds.
    """
    phases = list(dict.fromkeys(phase for spent in seconds.values() for phase in spent))
    if not phases:
        return None
    unit, size = time_unit(max(sum(spent.values()) for spent in seconds.values()))
    with rc_context(STYLE):
        figure = new_figure(9, 1.3 + 0.42 * len(seconds))
        axes = figure.add_subplot()
        names, left = list(seconds), [0.0] * len(seconds)
        for phase in phases:
            width = [seconds[name].get(phase, 0.0) / size for name in names]
            color = PHASE_COLORS.get(phase, GREY)
            axes.barh(
                names,
                width,
                left=left,
                height=0.62,
                color=color,
                edgecolor="white",
                linewidth=0.8,
                label=phase,
            )
            left = [a + b for a, b in zip(left, width)]
        for row, total in enumerate(left):
            axes.annotate(
                f"{total:.3g}",
                (total, row),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.06)
        axes.set_xlabel(f"{unit} of work")
        figure.legend(
            loc="outside upper center",
            ncols=min(len(phases), 9),
            fontsize=9,
            handlelength=1.1,
            columnspacing=1.3,
        )
    return figure


def time_unit(longest: float) -> tuple[str, float]:
    """The unit for times up to `longest` seconds, and its length in seconds."""
    return (
        ("hours", 3600.0)
        if longest > 7200
        else ("minutes", 60.0)
        if longest > 180
        else ("seconds", 1.0)
    )


def new_figure(width: float, height: float) -> Figure:
    """An empty figure with constrained layout; `width` and `height` in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.09, h_pad=0.09)  # type: ignore[union-attr, call-arg]
    FigureCanvasAgg(figure)
    return figure
