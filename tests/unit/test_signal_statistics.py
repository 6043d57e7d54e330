"""Fig. 7 and Fig. 10 as data: by hand on a few tokens, and as a stage on a real batch."""

from __future__ import annotations

import json

import pytest
import torch
from helpers import World

from erpd_core.config import TrainConfig
from tasks.evaluation.signal_statistics import (
    BINS,
    EDGES,
    FILE,
    MeasureSignal,
    by_deviation,
    by_outcome,
)
from tasks.execution.stage import get_or_compute
from tasks.rollouts.score import ScoreRollouts
from tasks.training.teacher import TrainTeacher


def test_a_student_that_moved_half_as_far_has_ratio_a_half_everywhere():
    teacher = torch.linspace(-3, 3, 200)
    rows = by_deviation(teacher, teacher / 2)
    assert len(rows) == BINS
    assert [row["ratio"] for row in rows] == pytest.approx([0.5] * BINS)
    assert [row["teacher"] for row in rows] == sorted(row["teacher"] for row in rows)
    assert sum(row["tokens"] for row in rows) == 200


def test_signs_do_not_matter_and_tokens_the_teacher_left_alone_are_left_out():
    teacher = torch.tensor([0.0] * 100 + [2.0] * 50 + [-2.0] * 50)
    student = torch.tensor([5.0] * 100 + [-1.0] * 100)
    rows = by_deviation(teacher, student)
    assert sum(row["tokens"] for row in rows) == 100
    assert all(row["teacher"] == 2.0 and row["ratio"] == 0.5 for row in rows)


def test_log_ratios_are_counted_by_outcome_and_outliers_in_the_outer_bins():
    low, high, bins = EDGES
    ratio, positive = (
        torch.tensor([0.1, 0.1, -100.0, 100.0]),
        torch.tensor([True, True, True, False]),
    )
    histograms = by_outcome(ratio, positive)
    assert sum(histograms["positive"]["counts"]) == 3 and histograms["positive"]["counts"][0] == 1
    assert (
        histograms["negative"]["counts"][-1] == 1 and len(histograms["negative"]["counts"]) == bins
    )
    assert histograms["positive"]["edges"] == [low, high]
    assert "negative" not in by_outcome(ratio, torch.ones(4, dtype=torch.bool))


def test_the_stage_measures_columns_of_one_batch(world: World):
    config = TrainConfig(minibatch=64, steps=3, optimizer={"lr": 1e-4})
    teacher = get_or_compute(
        TrainTeacher(
            init=world.base,
            rollouts=world.rollouts,
            old=world.old,
            role="teacher",
            seed=3,
            config=config,
        ),
        world.context,
    ).last
    column = get_or_compute(ScoreRollouts(policy=teacher, rollouts=world.rollouts), world.context)
    stage = MeasureSignal(rollouts=world.rollouts, old=world.old, teacher=column, student=column)
    measured = json.loads(
        (world.store.path(get_or_compute(stage, world.context).id) / FILE).read_text()
    )
    assert {row["ratio"] for row in measured["deviation"]} == {1.0}
    assert measured["teacher"] == measured["student"]
    tokens = sum(histogram["tokens"] for histogram in measured["teacher"].values())
    assert (
        tokens
        == world.rollouts.tokens
        == sum(sum(histogram["counts"]) for histogram in measured["teacher"].values())
    )
