"""The fused loss of token-level losses: gradients are computed chunk by chunk in one pass."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erpd_core import logprobs
from erpd_core.config import CE, VESPO
from erpd_core.config.losses import LOSS_CONFIGS
from erpd_core.logprobs import fused_loss, token_logprobs
from erpd_core.losses import LOSSES
from erpd_core.optimize import objective

from .helpers import random_inputs, totals_of

CONFIGS = [*(config() for config in LOSS_CONFIGS), CE(aggregate="mean")]
BY_TOKEN = [config for config in CONFIGS if not config.SEQUENCE_LEVEL]


def named(config):
    return config.kind


def stretch(x, part):
    return dataclasses.replace(
        x,
        lp_N=x.lp_N[part],
        old_N=x.old_N[part],
        signal_N=x.signal_N[part],
        entropy_N=x.entropy_N[part],
        seq_N=x.seq_N[part],
    )


def test_every_loss_has_its_function_and_two_need_whole_responses():
    assert {config.kind for config in CONFIGS} == LOSSES.keys()
    assert {config.kind for config in CONFIGS if config.SEQUENCE_LEVEL} >= {"ce", "vespo"}


@pytest.mark.parametrize("config", BY_TOKEN, ids=named)
@settings(deadline=None)
@given(cut=st.integers(1, 10), seed=st.integers(0, 99))
def test_losses_by_token_add_up_over_any_cut_also_inside_a_response(config, cut, seed):
    x = random_inputs(seed)
    config = config.model_copy(update={"kl_weight": 0.1, "entropy_weight": 0.5})
    whole, _ = objective(config, x)
    parts = [objective(config, stretch(x, part))[0] for part in (slice(0, cut), slice(cut, None))]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("config", [CE(), VESPO()], ids=named)
def test_losses_of_whole_responses_do_not(config):
    x = random_inputs(3)
    whole, _ = objective(config, x)
    parts = [objective(config, stretch(x, part))[0] for part in (slice(0, 5), slice(5, None))]
    assert abs(float(sum(parts) - whole)) > 1e-6


@pytest.mark.parametrize("chunk", [1, 4, 11, 64])
@pytest.mark.parametrize("config", BY_TOKEN, ids=named)
def test_value_and_gradients_equal_the_path_through_columns(config, chunk, monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK", chunk)
    config = config.model_copy(update={"kl_weight": 0.1, "entropy_weight": 0.5})
    generator = torch.Generator().manual_seed(5)
    x = random_inputs(5)
    count = len(x.lp_N)
    hidden = torch.randn(count, 6, generator=generator, requires_grad=True)
    weight = torch.randn(9, 6, generator=generator, requires_grad=True)
    token = torch.randint(9, (count,), generator=generator)
    x = dataclasses.replace(
        x,
        old_N=x.old_N.float(),
        signal_N=x.signal_N.float(),
        reward_S=x.reward_S.float(),
        totals=totals_of(x.length_S, x.reward_S),
    )

    def loss(part, lp, entropy):
        return objective(config, dataclasses.replace(stretch(x, part), lp_N=lp, entropy_N=entropy))[
            0
        ]

    fused = fused_loss(hidden, weight, token, loss)
    through_columns = loss(slice(None), *token_logprobs(hidden, weight, token))
    torch.testing.assert_close(fused, through_columns)
    for ours, expected in zip(
        torch.autograd.grad(2 * fused, [hidden, weight]),
        torch.autograd.grad(2 * through_columns, [hidden, weight]),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_a_chunk_is_asked_once_and_in_order():
    calls = []

    def loss(part, lp, entropy):
        calls.append((part.start, len(lp)))
        return lp.sum()

    count = 2 * logprobs.CHUNK + 3
    fused_loss(
        torch.randn(count, 2, requires_grad=True),
        torch.randn(3, 2),
        torch.zeros(count, dtype=torch.int64),
        loss,
    )
    assert calls == [(0, logprobs.CHUNK), (logprobs.CHUNK, logprobs.CHUNK), (2 * logprobs.CHUNK, 3)]
