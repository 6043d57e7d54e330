"""The third panel of a study's figure: scores over batches, time or drift, entropy over steps."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flows.reports.figures.campaign import BASE
from flows.reports.figures.style import arm_color
from scripts.evidence.drift import BOUND, LATE, late_gains, side_by_side
from scripts.evidence.record import RESPONSES, ArmRecord, Record, TrainingCurve

Points = Mapping[float, Sequence[float]]
"""Position on the x axis -> one value per seed."""


def over_batches(axes: Axes, records: Sequence[Record], arms: Sequence[str]) -> None:
    """Plot the students' test scores after each batch."""
    for arm in arms:
        points = _gathered(
            (policy.iteration, 100 * policy.score)
            for record in records
            for policy in record.arms[arm].policies
            if policy.role == "student" or policy.iteration == 0
        )
        _line(axes, points, arm_color(arm, arms))
    axes.xaxis.get_major_locator().set_params(integer=True)
    _named(axes, "students over batches", "batches", "score on the test problems, %")


def cost_over_drift(axes: Axes, records: Sequence[Record], arms: Sequence[str]) -> None:
    """Plot students against the first arm's of the same batch: score difference over KL ratio.

    The difference is in points; the ratio is that of their KL from the base.
    """
    plain, *others = arms
    for arm in others:
        pairs = [pair for record in records for pair in side_by_side(record, arm, plain)]
        ratios = [ours.kl_base / theirs.kl_base for ours, theirs in pairs]
        points = [100 * (ours.score - theirs.score) for ours, theirs in pairs]
        axes.scatter(
            ratios,
            points,
            s=[14 * ours.iteration for ours, _ in pairs],
            color=arm_color(arm, arms),
            alpha=0.5,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    _named(
        axes,
        "what it costs; later batches are larger",
        f"KL from the base over that of {plain}",
        f"score over {plain}, points",
    )


def gain_over_kl(axes: Axes, records: Sequence[Record], arms: Sequence[str]) -> None:
    """Plot the points that each later batch adds over its student's KL from the base."""
    for arm in arms:
        gains = [late for record in records for late in late_gains(record, arm)]
        axes.scatter(
            [student.kl_base for student, _ in gains],
            [gain for _, gain in gains],
            s=24,
            color=arm_color(arm, arms),
            alpha=0.6,
        )
    axes.axhline(0, color=BASE, linewidth=1)
    axes.axvline(BOUND, color=BASE, linewidth=1, linestyle=":")
    _named(
        axes,
        f"students from batch {LATE} on",
        "KL(policy || base), nats per token",
        "score over the student before, points",
    )


def over_time(axes: Axes, records: Sequence[Record], arms: Sequence[str]) -> None:
    """Plot validation scores over seconds of work.

    Online training is a curve; a campaign's student is one cross per seed.
    """
    _against_online(
        axes, records, arms, lambda curve: curve.seconds_a_step, lambda _, arm: arm.work
    )
    _named(
        axes,
        "score over time; a cross is a campaign",
        "seconds of sampling, scoring and training",
        "score on the validation problems, %",
    )


def over_responses(axes: Axes, records: Sequence[Record], arms: Sequence[str]) -> None:
    """Plot validation scores over sampled responses.

    A campaign's arm has its number of problems in its name.
    """
    _against_online(
        axes,
        records,
        arms,
        lambda _: RESPONSES**2,
        lambda arm, _: RESPONSES * int(arm.partition("-")[2]),
    )
    axes.set_xscale("log", base=2)
    _named(
        axes,
        "score over responses; a cross is a campaign",
        "responses sampled",
        "score on the validation problems, %",
    )


def _against_online(
    axes: Axes,
    records: Sequence[Record],
    arms: Sequence[str],
    of_step: Callable[[TrainingCurve], float],
    of_campaign: Callable[[str, ArmRecord], float],
) -> None:
    for arm in arms:
        color, curves = arm_color(arm, arms), []
        for arm_record in (record.arms[arm] for record in records):
            if arm_record.trainings[0].role != "online":
                place = of_campaign(arm, arm_record), 100 * arm_record.validated
                axes.plot(
                    *place, marker="X", markersize=8, color=color, markeredgecolor="white", zorder=4
                )
                continue
            curve = arm_record.curve("online")
            curves.append(
                {
                    step: (step * of_step(curve), 100 * score)
                    for step, score in sorted(curve.validation.items())
                }
            )
        for curve in curves:
            axes.plot(*zip(*curve.values(), strict=True), color=color, alpha=0.3, linewidth=0.8)
        if curves:
            means = [
                [statistics.fmean(curve[step][axis] for curve in curves) for step in curves[0]]
                for axis in (0, 1)
            ]
            axes.plot(*means, color=color, linewidth=2)


def entropy_over_steps(axes: Axes, records: Sequence[Record], arms: Sequence[str]) -> None:
    """Plot the entropy on the batch during the longest training of each loss."""
    longest = {
        arm.partition("-")[0]: arm
        for arm in sorted(arms, key=lambda arm: int(arm.partition("-")[2]))
    }
    for arm in longest.values():
        points = _gathered(
            (step, entropy)
            for record in records
            for curve in record.arms[arm].trainings
            for step, entropy in zip(curve.steps, curve.columns["entropy"], strict=True)
            if entropy is not None
        )
        _line(axes, points, arm_color(arm, arms))
    _named(axes, "entropy over steps", "optimizer steps", "entropy on the batch, nats")


def recovery(axes: Axes, records: Sequence[Record], arms: Sequence[str]) -> None:
    """Plot validation scores of the base and of a teacher's kept steps, on a log axis."""
    points = _gathered(
        place
        for record in records
        for arm in (record.arms["recovery"],)
        for place in [
            (0.5, 100 * arm.base.score),
            *((step, 100 * score) for step, score in arm.curve("teacher").validation.items()),
        ]
    )
    _line(axes, points, arm_color("recovery", arms))
    axes.set_xscale("log", base=2)
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 40, 60], ["base", "1", "2", "5", "10", "20", "40", "60"])
    axes.minorticks_off()
    _named(
        axes, "MSE unlearns, and recovers", "optimizer steps", "score on the validation problems, %"
    )


PANELS: Mapping[str, Callable[[Axes, Sequence[Record], Sequence[str]], None]] = {
    "bounded": over_batches,
    "clock": over_time,
    "clock_smollm2": over_time,
    "cooler": cost_over_drift,
    "earlier": over_batches,
    "entropy": cost_over_drift,
    "greedy": over_batches,
    "iterating": over_batches,
    "reuse": over_responses,
    "stalled": over_batches,
    "steps": entropy_over_steps,
    "switching": gain_over_kl,
    "unlearning": recovery,
}
"""Study -> its panel."""


def _gathered(pairs: Iterable[tuple[float, float]]) -> Points:
    points: dict[float, list[float]] = defaultdict(list)
    for place, value in pairs:
        points[place].append(value)
    return dict(sorted(points.items()))


def _line(axes: Axes, points: Points, color: str) -> None:
    """Plot a line through the means and a dot per seed."""
    axes.plot(
        list(points),
        [statistics.fmean(values) for values in points.values()],
        color=color,
        linewidth=2,
    )
    dots = [(place, value) for place, values in points.items() for value in values]
    axes.plot(
        *zip(*dots, strict=True), linestyle="", marker="o", markersize=3, color=color, alpha=0.4
    )


def _named(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
