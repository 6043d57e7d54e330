"""A study's pictures and their data: time, colours, names, and no picture without data."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_lab import Lab

from erpd_core.refs import Score
from flows.reports.figures import signal as signal_figures
from flows.reports.figures import study as study_figures
from flows.reports.figures import style as arm_style
from flows.reports.figures.campaign import png
from flows.reports.study_pictures import timeline

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_time_counts_what_led_to_a_policy_and_not_its_measurement(finished_study: Lab):
    line = timeline(
        finished_study.registry, finished_study.store, "ce", finished_study.campaigns["ce"]
    )
    assert [(at, policy.role) for at, policy in line.policies] == [
        (0.0, "base"),
        (55.0, "teacher"),
        (65.0, "student"),
    ]
    # rollouts of 10 s, then steps 2 and 4 of a run of 40 s
    assert line.kept == [[(30.0, 0.6), (50.0, 0.7)]]
    online = timeline(
        finished_study.registry, finished_study.store, "online", finished_study.campaigns["online"]
    )
    # 8 s of sampling and 2 s of learning a step
    assert online.kept == [[(20.0, 0.55), (40.0, 0.6)]]
    assert online.policies[-1][0] == 45.0


def test_pictures_without_data_are_none():
    drawn = [
        study_figures.gains([]),
        study_figures.efficiency([]),
        study_figures.stages([]),
        signal_figures.deviation({"a": []}),
    ]
    assert [*drawn, signal_figures.log_ratios({"a": {}}), study_figures.score_by_time([])] == [
        None
    ] * 6


def test_a_dozen_arms_have_a_dozen_colours_and_an_arm_keeps_its_own():
    arms = [f"arm{number}" for number in range(12)]
    assert len({arm_style.arm_color(arm, arms) for arm in arms}) == 12
    score = Score(avg=0.5, k=8, problems=200, ci95=(0.47, 0.53))
    points = [
        study_figures.Placed(arm, "student", 1, 0.01 + 0.002 * number, {"t": score})
        for number, arm in enumerate(arms)
    ]
    figure = study_figures.efficiency(points[3:4], arms)
    assert figure is not None and figure.axes[0].lines[-1].get_color() == arm_style.ARMS[3]
    written = [text.get_text() for text in study_figures.efficiency(points).axes[0].texts]  # type: ignore[union-attr]
    assert len(set(written)) == len(written) and set(written) <= set(arms)


def test_names_in_a_picture_do_not_lie_on_each_other():
    score = Score(avg=0.5, k=8, problems=200, ci95=(0.47, 0.53))
    points = [
        study_figures.Placed(f"arm{number}", "student", 1, 0.05 + 0.001 * number, {"t": score})
        for number in range(12)
    ]
    figure = study_figures.efficiency(points)
    assert figure is not None
    png(figure)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert boxes and not any(
        box.overlaps(other) for number, box in enumerate(boxes) for other in boxes[:number]
    )
