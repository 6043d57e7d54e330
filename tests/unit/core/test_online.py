"""Records of a step of on-policy training, by hand; defaults and refused values."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from erpd_core.advantages import group_normalized
from erpd_core.batch import TokenBatch
from erpd_core.config import GRPO, OnlineConfig, SamplingConfig
from erpd_core.online import fresh_record, informative_groups, mean_record

BATCH = TokenBatch.build(
    prompts=[[5], [6]],
    responses=[[1, 2], [3], [4, 4, 4], [1]],
    groups=[0, 0, 1, 1],
    rewards=[1, 0, 1, 1],
)


def test_a_fresh_batch_by_hand():
    lp_N = torch.tensor([-1.0, -1.0, -2.0, -0.5, -0.5, -0.5, -1.5])
    start_N = torch.tensor([-2.0, -1.0, -1.0, -0.5, -0.5, -2.0, -2.0])
    entropy_N = torch.arange(7.0)
    assert fresh_record(BATCH, lp_N, entropy_N, start_N) == {
        "reward_mean": 3 / 4,
        "length_mean": 7 / 4,
        "entropy": 3.0,
        "kl_theta_start": pytest.approx((1 + 0 - 1 + 0 + 0 + 1.5 + 0.5) / 7),
    }


@pytest.mark.parametrize(
    ("rewards", "expected"), [([1, 0, 1, 1], 1), ([1, 0, 0, 1], 2), ([1, 1, 0, 0], 0)]
)
def test_a_group_informs_when_its_outcomes_differ(rewards: list[float], expected: int):
    reward_S = torch.tensor(rewards, dtype=torch.float32)
    assert informative_groups(group_normalized(reward_S, BATCH.group_S), BATCH.group_S) == expected


@pytest.mark.parametrize("samples", [3, 7, 16, 33])
@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_equal_outcomes_give_an_advantage_of_exactly_nothing(samples: int, reward: float):
    group_S = torch.zeros(samples, dtype=torch.int64)
    assert (
        informative_groups(group_normalized(torch.full((samples,), reward), group_S), group_S) == 0
    )


def test_several_updates_are_one_record():
    updates = [
        {"loss": 1.0, "ratio_max": 2.0, "ratio_min": 0.5, "prob_positive": 0.25},
        {"loss": 2.0, "ratio_max": 1.0, "ratio_min": 0.75},  # an update without a right response
    ]
    assert mean_record(updates) == {
        "loss": 1.5,
        "ratio_max": 2.0,
        "ratio_min": 0.5,
        "prob_positive": 0.25,
    }
    assert mean_record(updates[1:]) == updates[1]
    assert mean_record([]) == {}


def test_defaults_are_the_papers():
    config = OnlineConfig()
    assert config.loss == GRPO(clip_low=0.2, clip_high=0.28)
    assert math.isclose(config.optimizer.lr, 1e-6)
    assert (config.sampling.temperature, config.sampling.samples, config.updates_per_batch) == (
        0.6,
        16,
        1,
    )
    assert OnlineConfig(steps=50, keep=(25, 10)).trail == (10, 25, 50)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 9, "keep": (10,)}, "step 10 is beyond the last step 9"),
        (
            {"prompts_per_step": 2, "sampling": SamplingConfig(samples=2), "updates_per_batch": 5},
            "exceeds the 4 trajectories",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(changes: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        OnlineConfig(**changes)
