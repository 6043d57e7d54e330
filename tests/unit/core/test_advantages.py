"""Group-normalized rewards, and advantages per token from a value network."""

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erpd_core.advantages import gae, group_normalized, length_adaptive_lambda, whitened
from erpd_core.faults import Fault


def test_by_hand():
    """Group 0: rewards 1, 0, 0, 1 -> mean 1/2, sample std sqrt(1/3). Group 1: rewards 1, 0 -> mean
    1/2, std sqrt(1/2).
    """
    advantage = group_normalized(
        torch.tensor([1.0, 0, 0, 1, 1, 0]), torch.tensor([0, 0, 0, 0, 1, 1]), eps=0.0
    )
    a, b = 0.5 * 3**0.5, 0.5 * 2**0.5
    torch.testing.assert_close(advantage, torch.tensor([a, -a, -a, a, b, -b]))


def test_groups_that_say_nothing_get_exactly_zero():
    reward = torch.tensor([1.0, 1, 1, 0, 0, 1])
    assert group_normalized(reward, torch.tensor([0, 0, 0, 1, 1, 2])).tolist() == [0.0] * 6


def test_a_group_number_without_members_is_harmless():
    advantage = group_normalized(torch.tensor([1.0, 0.0]), torch.tensor([4, 4]))
    assert torch.isfinite(advantage).all()
    assert advantage[0] > 0 > advantage[1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=20))
def test_equals_a_loop_over_groups_in_whatever_order_they_come(rows):
    reward = torch.tensor([float(r) for _, r in rows])
    advantage = group_normalized(reward, torch.tensor([g for g, _ in rows]))
    for index, (group, r) in enumerate(rows):
        mates = [x for g, x in rows if g == group]
        spread = statistics.stdev(mates) if len(mates) > 1 else 0.0
        expected = (r - statistics.mean(mates)) / (spread + 1e-4)
        torch.testing.assert_close(advantage[index].item(), expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------- GAE

LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=6)


def random_values(seed, lengths):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, (len(lengths),), generator=generator).float(), torch.rand(
        sum(lengths), generator=generator
    )


def test_gae_by_hand():
    """A response of two tokens with R = 1, V = 0.25, 0.5, lambda 0.5: last 0.5, first 0.25 + 0.5 *
    0.5. A response of one token: 0 - 0.75.
    """
    advantage = gae(
        torch.tensor([1.0, 0.0]),
        torch.tensor([0.25, 0.5, 0.75]),
        torch.tensor([2, 1]),
        torch.tensor([0.5, 0.9]),
    )
    assert advantage.tolist() == [0.5, 0.5, -0.75]


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 999))
def test_gae_equals_the_double_sum_of_td_errors(lengths, seed):
    reward, value = random_values(seed, lengths)
    lam = torch.rand(len(lengths), generator=torch.Generator().manual_seed(seed + 1))
    advantage, start = gae(reward, value, torch.tensor(lengths), lam).tolist(), 0
    for s, length in enumerate(lengths):
        own = [*value[start : start + length].tolist(), float(reward[s])]
        errors = [own[t + 1] - own[t] for t in range(length)]
        for t in range(length):
            expected = sum(float(lam[s]) ** (k - t) * errors[k] for k in range(t, length))
            assert advantage[start + t] == pytest.approx(expected, abs=1e-6)
        start += length


@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 999))
def test_gae_at_lambda_one_is_return_minus_value_and_at_zero_the_td_error(lengths, seed):
    reward, value = random_values(seed, lengths)
    length_S = torch.tensor(lengths)
    seq_N = torch.repeat_interleave(torch.arange(len(lengths)), length_S)
    torch.testing.assert_close(
        gae(reward, value, length_S, torch.ones(len(lengths))),
        reward[seq_N] - value,
        atol=1e-6,
        rtol=0,
    )
    follows_N = torch.cat([seq_N[1:] == seq_N[:-1], torch.tensor([False])])
    td_N = torch.where(follows_N, value.roll(-1), reward[seq_N]) - value
    torch.testing.assert_close(
        gae(reward, value, length_S, torch.zeros(len(lengths))), td_N, atol=1e-6, rtol=0
    )


def test_gae_of_values_that_know_the_outcome_is_zero():
    length = torch.tensor([3, 2])
    assert (
        gae(
            torch.tensor([1.0, 0.0]),
            torch.tensor([1.0, 1, 1, 0, 0]),
            length,
            torch.tensor([0.3, 0.8]),
        ).tolist()
        == [0.0] * 5
    )


def test_gae_refuses_values_of_another_batch():
    with pytest.raises(ValueError, match="4 values for responses of 3 tokens"):
        gae(torch.tensor([1.0]), torch.zeros(4), torch.tensor([3]), torch.ones(1))


def test_the_length_adaptive_lambda_is_vapos_and_stays_between_zero_and_one():
    """Below 1 / alpha = 20 tokens, 1 / (0.05 length) exceeds 1 and VAPO's 1 minus it is negative:
    lambda is 0.
    """
    lam = length_adaptive_lambda(torch.tensor([1, 10, 20, 40, 2_000, 32_768]))
    assert lam.tolist() == pytest.approx([0, 0, 0, 0.5, 0.99, 1 - 20 / 32_768])
    assert length_adaptive_lambda(torch.tensor([10]), alpha=0.5).item() == pytest.approx(0.8)


def test_whitened_advantages_have_mean_zero_and_variance_one_and_constants_are_refused():
    advantage = whitened(torch.tensor([3.0, 1.0, 1.0, -2.0, 7.0]))
    assert advantage.mean().item() == pytest.approx(0, abs=1e-6)
    assert advantage.square().mean().item() == pytest.approx(1, rel=1e-5)
    with pytest.raises(Fault, match="same on every token"):
        whitened(torch.full((5,), 0.25))
