"""What a study is about beyond scores and distances, as one panel more: scores over batches or over time, entropy or scores over steps."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from matplotlib.axes import Axes

from scripts.evidence.record import RESPONSES, ArmRecord, Record, TrainingCurve
from tasks.arm_style import arm_color

Points = Mapping[float, Sequence[float]]
"""Place -> a value a seed."""


def over_batches(axes: Axes, records: Sequence[Record], arms: Sequence[str]) -> None:
    """Test scores of the students after each batch."""
    for arm in arms:
        found = _gathered(
            (one.iteration, 100 * one.score)
            for record in records
            for one in record.arms[arm].policies
            if one.role == "student" or one.iteration == 0
        )
        _line(axes, found, arm_color(arm, arms))
    axes.xaxis.get_major_locator().set_params(integer=True)
    _named(axes, "students over batches", "batches", "score on the test problems, %")


def over_time(axes: Axes, records: Sequence[Record], arms: Sequence[str]) -> None:
    """Validation scores over seconds of work: curves of what trains online, a cross a seed for the campaign's student."""
    _against_online(axes, records, arms, lambda curve: curve.seconds_a_step, lambda _, one: one.work)
    _named(
        axes, "score over time; a cross is a campaign", "seconds of sampling, scoring and training", "score on the validation problems, %"
    )


def over_responses(axes: Axes, records: Sequence[Record], arms: Sequence[str]) -> None:
    """The same over responses that were sampled; a campaign's arm is named after its problems."""
    _against_online(axes, records, arms, lambda _: RESPONSES**2, lambda arm, _: RESPONSES * int(arm.partition("-")[2]))
    axes.set_xscale("log", base=2)
    _named(axes, "score over responses; a cross is a campaign", "responses sampled", "score on the validation problems, %")


def _against_online(
    axes: Axes,
    records: Sequence[Record],
    arms: Sequence[str],
    of_step: Callable[[TrainingCurve], float],
    of_campaign: Callable[[str, ArmRecord], float],
) -> None:
    for arm in arms:
        color, curves = arm_color(arm, arms), []
        for one in (record.arms[arm] for record in records):
            if one.trainings[0].role != "online":
                place = of_campaign(arm, one), 100 * one.validated
                axes.plot(*place, marker="X", markersize=8, color=color, markeredgecolor="white", zorder=4)
                continue
            curve = one.curve("online")
            curves.append({step: (step * of_step(curve), 100 * score) for step, score in sorted(curve.validation.items())})
        for curve in curves:
            axes.plot(*zip(*curve.values(), strict=True), color=color, alpha=0.3, linewidth=0.8)
        if curves:
            means = [[statistics.fmean(one[step][axis] for one in curves) for step in curves[0]] for axis in (0, 1)]
            axes.plot(*means, color=color, linewidth=2)


def entropy_over_steps(axes: Axes, records: Sequence[Record], arms: Sequence[str]) -> None:
    """Of the longest training of each loss."""
    longest = {arm.partition("-")[0]: arm for arm in sorted(arms, key=lambda arm: int(arm.partition("-")[2]))}
    for arm in longest.values():
        found = _gathered(
            (step, entropy)
            for record in records
            for curve in record.arms[arm].trainings
            for step, entropy in zip(curve.steps, curve.columns["entropy"], strict=True)
            if entropy is not None
        )
        _line(axes, found, arm_color(arm, arms))
    _named(axes, "entropy over steps", "optimizer steps", "entropy on the batch, nats")


def recovery(axes: Axes, records: Sequence[Record], arms: Sequence[str]) -> None:
    """Validation scores of the steps that a teacher kept, the base before them; steps by their logarithm."""
    found = _gathered(
        place
        for record in records
        for arm in (record.arms["recovery"],)
        for place in [(0.5, 100 * arm.base.score), *((step, 100 * score) for step, score in arm.curve("teacher").validation.items())]
    )
    _line(axes, found, arm_color("recovery", arms))
    axes.set_xscale("log", base=2)
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 40, 60], ["base", "1", "2", "5", "10", "20", "40", "60"])
    axes.minorticks_off()
    _named(axes, "MSE unlearns, and recovers", "optimizer steps", "score on the validation problems, %")


PANELS: Mapping[str, Callable[[Axes, Sequence[Record], Sequence[str]], None]] = {
    "clock": over_time,
    "cooler": over_batches,
    "earlier": over_batches,
    "entropy": over_batches,
    "greedy": over_batches,
    "iterating": over_batches,
    "reuse": over_responses,
    "stalled": over_batches,
    "steps": entropy_over_steps,
    "switching": over_batches,
    "unlearning": recovery,
}
"""Study -> its panel."""


def _gathered(pairs: Iterable[tuple[float, float]]) -> Points:
    found: dict[float, list[float]] = defaultdict(list)
    for place, value in pairs:
        found[place].append(value)
    return dict(sorted(found.items()))


def _line(axes: Axes, found: Points, color: str) -> None:
    """A line through the means, a dot a seed."""
    axes.plot(list(found), [statistics.fmean(values) for values in found.values()], color=color, linewidth=2)
    dots = [(place, value) for place, values in found.items() for value in values]
    axes.plot(*zip(*dots, strict=True), linestyle="", marker="o", markersize=3, color=color, alpha=0.4)


def _named(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
