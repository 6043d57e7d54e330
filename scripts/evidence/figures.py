"""Draws one figure per study: score against KL of every policy, and its score on each seed."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flows.reports.figures.campaign import BASE, STYLE, kl_axis, new_figure, png
from flows.reports.figures.style import arm_color, arm_handles, legend, look, role_handles
from scripts.evidence.curves import PANELS
from scripts.evidence.record import Policy, Record
from tasks.host.atomic_files import write_atomically

Key = tuple[str, str, int]
"""Arm, role, iteration."""


def draw_all(found: Mapping[str, Sequence[Record]], folder: Path) -> dict[str, str]:
    """Draw every study that has records. Returns study -> name of its file in `folder`."""
    names = {}
    for study, records in found.items():
        if records:
            names[study] = f"{study}.png"
            image = png(study_figure(records))
            write_atomically(folder / names[study], partial(Path.write_bytes, data=image))
    return names


def study_figure(records: Sequence[Record]) -> Figure:
    """Return the figure of a study.

    The first panel has mean score against mean KL. The second has each policy's scores, one dot per
    seed and a bar at the mean. Studies in `PANELS` have a third of their own.
    """
    arms = list(records[0].arms)
    policies = by_key(records)
    with rc_context(STYLE):
        panel = PANELS.get(records[0].study)
        figure = new_figure(16.4 if panel else 11.4, max(4.6, 1.6 + 0.22 * len(policies)))
        left, middle, *right = figure.subplots(1, 3 if panel else 2)
        _front(left, policies, arms)
        _seeds(middle, policies, arms)
        if panel:
            panel(right[0], records, arms)
        figure.suptitle(
            f"{records[0].study}: {len(records)} seed{'s' if len(records) > 1 else ''}",
            x=0.01,
            ha="left",
            fontweight="bold",
        )
        legend(figure, [*arm_handles(arms), *role_handles(role for _, role, _ in policies)])
    return figure


def by_key(records: Sequence[Record]) -> dict[Key, list[Policy]]:
    """Group policies over the seeds.

    The base, which arms share, is there once. A teacher that became the student is there only as
    the student.
    """
    policies: dict[Key, list[Policy]] = defaultdict(list)
    for record in records:
        for number, (arm, arm_record) in enumerate(record.arms.items()):
            for policy in arm_record.policies:
                if (policy.role == "base" and number) or (
                    policy.role == "teacher" and policy.strategy == "none"
                ):
                    continue
                policies[arm, policy.role, policy.iteration].append(policy)
    return dict(policies)


def _front(axes: Axes, policies: Mapping[Key, Sequence[Policy]], arms: Sequence[str]) -> None:
    kl_axis(axes, [policy.kl_base for seeds in policies.values() for policy in seeds])
    for (arm, role, _), seeds in policies.items():
        color = BASE if role == "base" else arm_color(arm, arms)
        axes.scatter(
            [policy.kl_base for policy in seeds],
            [100 * policy.score for policy in seeds],
            s=7,
            color=color,
            alpha=0.35,
            zorder=1,
        )
        place = (
            statistics.fmean(policy.kl_base for policy in seeds),
            100 * statistics.fmean(policy.score for policy in seeds),
        )
        axes.plot(*place, linestyle="", zorder=3, **look(role, color))
    axes.set_ylabel("score on the test problems, %")
    axes.set_title("mean over seeds, and each seed")


def _seeds(axes: Axes, policies: Mapping[Key, Sequence[Policy]], arms: Sequence[str]) -> None:
    several = {
        arm
        for arm in arms
        if len({iteration for name, _, iteration in policies if name == arm}) > 2
    }
    ticks = []
    for place, ((arm, role, iteration), seeds) in enumerate(policies.items()):
        color = BASE if role == "base" else arm_color(arm, arms)
        scores = [100 * policy.score for policy in seeds]
        axes.plot(
            scores,
            [place] * len(scores),
            linestyle="",
            alpha=0.6,
            **{**look(role, color), "markersize": 4},
        )
        axes.plot(
            [statistics.fmean(scores)] * 2, [place - 0.35, place + 0.35], color=color, linewidth=2
        )
        ticks.append(
            (
                place,
                role
                if role == "base"
                else f"{arm}, {role}{f' {iteration}' if arm in several else ''}",
            )
        )
    axes.set_yticks([place for place, _ in ticks], [name for _, name in ticks], fontsize=8)
    axes.set_ylim(len(ticks) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("score on the test problems, %")
