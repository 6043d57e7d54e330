"""Group-normalised rewards."""

import statistics

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erpd_core.advantages import group_normalised


def test_by_hand():
    """Group 0: rewards 1, 0, 0, 1 -> mean 1/2, sample std sqrt(1/3). Group 1: one right of two -> mean 1/2, std sqrt(1/2)."""
    advantage = group_normalised(torch.tensor([1.0, 0, 0, 1, 1, 0]), torch.tensor([0, 0, 0, 0, 1, 1]), eps=0.0)
    a, b = 0.5 * 3**0.5, 0.5 * 2**0.5
    torch.testing.assert_close(advantage, torch.tensor([a, -a, -a, a, b, -b]))


def test_groups_that_say_nothing_get_exactly_zero():
    reward = torch.tensor([1.0, 1, 1, 0, 0, 1])
    assert group_normalised(reward, torch.tensor([0, 0, 0, 1, 1, 2])).tolist() == [0.0] * 6


def test_a_group_number_without_members_is_harmless():
    advantage = group_normalised(torch.tensor([1.0, 0.0]), torch.tensor([4, 4]))
    assert torch.isfinite(advantage).all()
    assert advantage[0] > 0 > advantage[1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=20))
def test_equals_a_loop_over_groups_in_whatever_order_they_come(rows):
    reward = torch.tensor([float(r) for _, r in rows])
    advantage = group_normalised(reward, torch.tensor([g for g, _ in rows]))
    for index, (group, r) in enumerate(rows):
        mates = [x for g, x in rows if g == group]
        spread = statistics.stdev(mates) if len(mates) > 1 else 0.0
        expected = (r - statistics.mean(mates)) / (spread + 1e-4)
        torch.testing.assert_close(advantage[index].item(), expected, rtol=1e-4, atol=1e-5)
