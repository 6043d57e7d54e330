"""Each loss by hand, against the oracle, by its gradient, and by its invariances."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erpd_core.config import CE, CISPO, DISPO, GRPO, MSE, PPO, SAPO, SFT, VESPO, Distill, Reinforce
from erpd_core.losses import LOSSES
from erpd_core.optimize import objective

from . import oracle
from .helpers import loss_inputs, part_of, random_inputs

# The tolerance is needed because SAPO's and MSE's constants pass through float32 in torch.where.
CLOSE = {"rtol": 1e-6, "atol": 1e-9}

STOPPED = [
    CISPO(),
    CISPO(max_weight=1.1),
    VESPO(),
    VESPO(k_pos=1.0, lambda_pos=0.5),
    DISPO(),
    DISPO(wrong_low=0.1, wrong_high=0.2),
]
"""Losses that stop the gradient of a weight, so their gradient is not that of their value."""
CONFIGS = [
    GRPO(),
    SAPO(),
    SAPO(tau_pos=0.5, tau_neg=2.0),
    CE(beta=0.05),
    CE(beta=0.5, aggregate="mean"),
    MSE(),
    MSE(negative_weight=0.5),
    SFT(),
    Distill(),
    Distill(clip_low=0.1, clip_high=0.3),
    PPO(),
    PPO(clip_low=0.1, clip_high=0.3),
    Reinforce(),
    *STOPPED,
]
TERMS = [
    {},
    {"kl_weight": 0.2},
    {"entropy_weight": 0.5},
    {"kl_weight": 0.05, "entropy_weight": -0.1},
]


def name(value):
    return " ".join(
        f"{k}={v}" for k, v in (value if isinstance(value, dict) else value.model_dump()).items()
    )


def value(config, x):
    return objective(config, x)[0]


def gradient(config, x):
    lp_N = x.lp_N.detach().requires_grad_()
    return torch.autograd.grad(value(config, dataclasses.replace(x, lp_N=lp_N)), lp_N)[0]


log = math.log

# ------------------------------------------------------------------------------------------ by hand


def test_grpo_by_hand():
    """Two responses. Ratios 1.5 and 0.5 with A = 1: -min(1.5, 1.28), -min(0.5, 0.8); then ratio
    0.5 with A = -2: -min(-1, -1.6).
    """
    x = loss_inputs([log(1.5), log(0.5), log(0.5)], [0, 0, 0], [1, 1, -2], [1, 0], [2, 1])
    loss, metrics = LOSSES["grpo"](GRPO(), x)
    assert loss.item() == pytest.approx(((-1.28 - 0.5) / 2 + 1.6) / 2)
    assert metrics["clip_fraction"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("config", [Distill(), PPO()], ids=lambda config: config.kind)
def test_distill_and_ppo_by_hand_are_token_means(config):
    """The tokens of the GRPO test; the clip is 0.2 on both sides, and all tokens weigh the same."""
    x = loss_inputs([log(1.5), log(0.5), log(0.5)], [0, 0, 0], [1, 1, -2], [1, 0], [2, 1])
    assert LOSSES[config.kind](config, x)[0].item() == pytest.approx((-1.2 - 0.5 + 1.6) / 3)


def test_sapo_by_hand():
    """Ratio 2: A = 3 gives -3 sigma(1) 4; A = -1 gives sigma(1.05) 4 / 1.05."""
    x = loss_inputs([log(2), log(2)], [0, 0], [3, -1], [1, 0], [1, 1])
    expected = (-12 / (1 + math.exp(-1)) + 4 / 1.05 / (1 + math.exp(-1.05))) / 2
    assert LOSSES["sapo"](SAPO(), x)[0].item() == pytest.approx(expected, rel=1e-6)


def test_ce_by_hand():
    """beta 0.5, sums of log-ratios 2 and 4: -log sigma(1) for the right one, -log(1 - sigma(2))
    for the wrong one.
    """
    x = loss_inputs([-1, -1, -1], [-2, -2, -5], [0, 0, 0], [1, 0], [2, 1])
    loss, metrics = LOSSES["ce"](CE(beta=0.5), x)
    assert loss.item() == pytest.approx((log(1 + math.exp(-1)) + log(1 + math.exp(2))) / 2)
    assert metrics["implicit_reward"].tolist() == [1, 1, 2]


def test_ce_mean_divides_the_sum_by_the_length():
    x = loss_inputs([-1, -1, -1], [-2, -2, -5], [0, 0, 0], [1, 0], [2, 1])
    loss = LOSSES["ce"](CE(beta=0.5, aggregate="mean"), x)[0]
    assert loss.item() == pytest.approx((log(1 + math.exp(-0.5)) + log(1 + math.exp(2))) / 2)


def test_ce_of_a_very_long_response_is_finite():
    """A sum of 10,000 log-ratios of -1 at beta 1: sigma underflows, its logarithm must not."""
    x = loss_inputs(
        torch.full((10_000,), -2.0), torch.full((10_000,), -1.0), torch.zeros(10_000), [1], [10_000]
    )
    assert LOSSES["ce"](CE(beta=1.0), x)[0].item() == pytest.approx(10_000)
    torch.testing.assert_close(
        gradient(CE(beta=1.0), x), torch.full((10_000,), -1.0, dtype=torch.float64)
    )


def test_mse_by_hand():
    """Probabilities 0.5 (right) and 0.2, 0.4 (wrong, weight 0.5): (0.25 + 0.02 + 0.08) / 3."""
    x = loss_inputs([log(0.5), log(0.2), log(0.4)], [0, 0, 0], [0, 0, 0], [1, 0], [1, 2])
    loss, metrics = LOSSES["mse"](MSE(negative_weight=0.5), x)
    assert loss.item() == pytest.approx((0.25 + 0.5 * 0.04 + 0.5 * 0.16) / 3)
    assert metrics["squared_error"].tolist() == pytest.approx([0.25, 0.04, 0.16])


def test_sft_by_hand_is_a_mean_over_positive_tokens_only():
    x = loss_inputs([-1, -2, -9, -6], [0] * 4, [0] * 4, [1, 0, 1], [2, 1, 1])
    assert value(SFT(), x).item() == pytest.approx(3.0)


def test_sft_without_a_right_response_is_zero_with_zero_gradient():
    x = loss_inputs([-1, -2], [0, 0], [0, 0], [0, 0], [1, 1])
    assert value(SFT(), x).item() == 0.0
    assert gradient(SFT(), x).tolist() == [0.0, 0.0]


def test_reinforce_by_hand_is_a_token_mean_and_knows_no_ratio():
    """A = 1, 1, -2 on log-probs -1, -2, -3: (1 + 2 - 6) / 3, for any old log-probs."""
    for old in ([0, 0, 0], [-9, -1, -5]):
        assert value(
            Reinforce(), loss_inputs([-1, -2, -3], old, [1, 1, -2], [1, 0], [2, 1])
        ).item() == pytest.approx(-1.0)


def test_cispo_by_hand():
    """Ratios 8 (cut to 5), 2 and 1/4 (kept) on log-probs -1, -1, -2 with A = 1, -1, 1: (5 - 2 +
    0.5) / 3.
    """
    x = loss_inputs(
        [-1, -1, -2], [-1 - log(8), -1 - log(2), -2 + log(4)], [1, -1, 1], [1, 0], [2, 1]
    )
    loss, metrics = LOSSES["cispo"](CISPO(), x)
    assert loss.item() == pytest.approx(3.5 / 3)
    assert metrics["clip_fraction"].tolist() == [1, 0, 0]
    torch.testing.assert_close(
        gradient(CISPO(), x), torch.tensor([-5, 2, -0.25], dtype=torch.float64) / 3
    )


def test_dispo_by_hand():
    """In a right response, ratios 2 and 1/2 become 1.28 and 0.8. In a wrong one they are kept, and
    8 becomes 5. lp -1, A = 1 and -1.
    """
    ratios = [log(2), log(0.5), log(2), log(0.5), log(8)]
    x = loss_inputs([-1] * 5, [-1 - ratio for ratio in ratios], [1, 1, -1, -1, -1], [1, 0], [2, 3])
    loss, metrics = LOSSES["dispo"](DISPO(), x)
    assert loss.item() == pytest.approx((1.28 + 0.8 - 2 - 0.5 - 5) / 5)
    assert metrics["clip_fraction"].tolist() == [1, 1, 0, 0, 1]
    torch.testing.assert_close(
        gradient(DISPO(), x), torch.tensor([-1.28, -0.8, 2, 0.5, 5], dtype=torch.float64) / 5
    )


def test_vespo_by_hand():
    """A right response with ratios 2 and 3 (w = 6, k 2, lambda 3), a wrong one with ratio 1/2 (k 3,
    lambda 2); lp -1, A = 1 and -1.
    """
    x = loss_inputs([-1] * 3, [-1 - log(2), -1 - log(3), -1 + log(2)], [1, 1, -1], [1, 0], [2, 1])
    loss, metrics = LOSSES["vespo"](VESPO(), x)
    right, wrong = 36 * math.exp(-15), math.exp(1) / 8
    assert metrics["sequence_weight"].tolist() == pytest.approx([right, right, wrong])
    assert loss.item() == pytest.approx((2 * right - wrong) / 3)


@pytest.mark.parametrize("step", [-1.0, 1.0])
def test_vespo_of_a_very_long_response_that_moved_far_is_finite(step):
    """10,000 tokens that each moved by one nat: w overflows or underflows, but its weight must be a
    small number, not NaN.
    """
    x = loss_inputs(
        torch.full((10_000,), -2.0),
        torch.full((10_000,), -2.0 - step),
        torch.ones(10_000),
        [1],
        [10_000],
    )
    assert LOSSES["vespo"](VESPO(), x)[1]["sequence_weight"].max() < 1e-13
    assert torch.isfinite(gradient(VESPO(), x)).all()


@pytest.mark.parametrize("config", [GRPO(), Reinforce(), CISPO(), VESPO(), DISPO()], ids=name)
def test_kl_and_entropy_terms_by_hand(config):
    """k2 of log-ratios 1 and 3: (0.5 + 4.5) / 2; entropies 0.2 and 0.6: mean 0.4. With a signal of
    0 only these terms remain.
    """
    x = loss_inputs([-1, -1], [-2, -4], [0, 0], [1, 1], [1, 1], entropy=[0.2, 0.6])
    assert value(config.model_copy(update={"kl_weight": 0.1}), x).item() == pytest.approx(0.25)
    assert value(config.model_copy(update={"entropy_weight": 0.5}), x).item() == pytest.approx(-0.2)


# ----------------------------------------------------------------------------- oracle and gradients


@pytest.mark.parametrize("terms", TERMS, ids=name)
@pytest.mark.parametrize("config", CONFIGS, ids=name)
def test_value_and_gradients_equal_the_oracles(config, terms):
    config = config.model_copy(update=terms)
    for seed in range(3):
        x = random_inputs(seed)
        lp_N, entropy_N = x.lp_N.requires_grad_(), x.entropy_N.requires_grad_()
        rows = oracle.rows_of(lp_N, x.old_N, x.signal_N, entropy_N, x.length_S.tolist())
        expected = oracle.policy_loss(config, rows, x.reward_S.tolist())
        ours = value(config, x)
        torch.testing.assert_close(ours, expected, **CLOSE)
        of = [lp_N, entropy_N]
        for mine, theirs in zip(
            *[
                torch.autograd.grad(z, of, allow_unused=True, materialize_grads=True)
                for z in (ours, expected)
            ]
        ):
            torch.testing.assert_close(mine, theirs, **CLOSE)


@pytest.mark.parametrize(
    "config", [config for config in CONFIGS if config not in STOPPED], ids=name
)
def test_gradcheck_by_finite_differences(config):
    config = config.model_copy(update={"kl_weight": 0.1, "entropy_weight": 0.3})
    x = random_inputs(5)

    def loss_of(lp_N, entropy_N):
        return value(config, dataclasses.replace(x, lp_N=lp_N, entropy_N=entropy_N))

    assert torch.autograd.gradcheck(
        loss_of, (x.lp_N.requires_grad_(), x.entropy_N.requires_grad_())
    )


@pytest.mark.parametrize("config", STOPPED, ids=name)
def test_a_stopped_gradient_is_that_of_its_potential_by_finite_differences(config):
    """The gradient, weight times A, is that of the weight's integral, which is computed separately
    in plain floats.
    """
    for seed in range(3):
        x = random_inputs(seed)
        x = dataclasses.replace(
            x,
            signal_N=torch.randn(4, generator=torch.Generator().manual_seed(seed)).double()[
                x.seq_N
            ],
        )
        gradient_N = gradient(config, x)

        def potential(lp_N, x=x):
            return oracle.potential(
                config,
                oracle.rows_of(lp_N, x.old_N, x.signal_N, x.entropy_N, x.length_S.tolist()),
                x.reward_S.tolist(),
            )

        for n in range(len(x.lp_N)):
            step = torch.zeros_like(x.lp_N)
            step[n] = 1e-5
            slope = (potential(x.lp_N + step) - potential(x.lp_N - step)) / 2e-5
            assert gradient_N[n].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


# --------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("config", [Reinforce(), *STOPPED], ids=name)
def test_at_ratio_one_these_losses_are_reinforce(config):
    """Value and gradient are token means of -A lp: every weight is 1, whatever its bounds."""
    x = random_inputs(1)
    x = dataclasses.replace(x, lp_N=x.old_N.clone())
    torch.testing.assert_close(value(config, x), -(x.signal_N * x.lp_N).mean(), **CLOSE)
    torch.testing.assert_close(gradient(config, x), -x.signal_N / 11, **CLOSE)


def test_cispo_keeps_a_gradient_on_every_token_where_the_surrogate_cuts_it():
    x = loss_inputs([log(3), log(0.1)], [0, 0], [1, -1], [1, 0], [1, 1])
    assert gradient(Distill(), x).tolist() == [0, 0]
    assert gradient(CISPO(), x).tolist() == pytest.approx([-1.5, 0.05])


def test_dispo_with_the_same_bounds_on_both_sides_knows_no_outcome():
    """Without a lower bound, value and gradient equal CISPO's."""
    x = random_inputs(4)
    config = DISPO(right_low=1.0, right_high=0.5, wrong_low=1.0, wrong_high=0.5)
    torch.testing.assert_close(value(config, x), value(CISPO(max_weight=1.5), x))
    torch.testing.assert_close(gradient(config, x), gradient(CISPO(max_weight=1.5), x))


def test_vespo_fades_on_both_sides_of_one():
    """phi rises up to w = k / lambda and then falls. That maximum is below 1 for right responses,
    above 1 for wrong ones.
    """
    for signal, top in ((1.0, 2 / 3), (-1.0, 3 / 2)):
        weights = [top * factor for factor in (0.05, 0.5, 1.0, 2.0, 6.0)]
        phi = [
            LOSSES["vespo"](VESPO(), loss_inputs([log(w)], [0], [signal], [1], [1]))[1][
                "sequence_weight"
            ].item()
            for w in weights
        ]
        assert phi[0] < phi[1] < phi[2] > phi[3] > phi[4]


@pytest.mark.parametrize(
    "config",
    [SAPO(), SAPO(tau_pos=0.3, tau_neg=4.0), GRPO(), GRPO(clip_low=0.0, clip_high=0.0)],
    ids=name,
)
def test_at_ratio_one_the_gradient_is_reinforces(config):
    """REINFORCE's gradient is -A d lp, averaged as in GRPO and SAPO."""
    x = random_inputs(1)
    x = dataclasses.replace(x, lp_N=x.old_N.clone())
    reinforce_N = -x.signal_N / x.length_S[x.seq_N] / len(x.length_S)
    # With clip bounds of 0, min() splits the gradient between its two equal sides, and clamp passes
    # it at its bound.
    torch.testing.assert_close(gradient(config, x), reinforce_N, **CLOSE)


@pytest.mark.parametrize(
    "config",
    [GRPO(clip_low=0.2, clip_high=0.28), PPO(), Distill(clip_low=0.1, clip_high=0.4)],
    ids=name,
)
def test_the_surrogate_is_cut_only_where_the_ratio_has_gone_far_in_the_signals_direction(config):
    low, high = 1 - config.clip_low, 1 + config.clip_high
    cases = [  # ratio, signal, whether the gradient is zero
        (high + 0.01, 1.0, True),
        (high - 0.01, 1.0, False),
        (high + 0.01, -1.0, False),
        (low - 0.01, -1.0, True),
        (low + 0.01, -1.0, False),
        (low - 0.01, 1.0, False),
    ]
    for ratio, signal, stops in cases:
        x = loss_inputs([log(ratio)], [0.0], [signal], [1], [1])
        assert (gradient(config, x).item() == 0.0) == stops, (ratio, signal)
        assert LOSSES[config.kind](config, x)[1]["clip_fraction"].tolist() == [float(stops)]


def test_sapo_fades_smoothly_and_faster_for_negatives():
    """The gradient in the ratio is 4 sigma' <= 1; a larger tau closes the gate sooner."""
    x = loss_inputs([log(3), log(3)], [0, 0], [1, -1], [1, 0], [1, 1])
    gate = LOSSES["sapo"](SAPO(), x)[1]["gate_weight"]
    for actual, tau in zip(gate.tolist(), (1.0, 1.05)):
        s = 1 / (1 + math.exp(-2 * tau))
        assert actual == pytest.approx(4 * s * (1 - s), rel=1e-6)
    # d ratio / d lp = 3, two sequences
    torch.testing.assert_close(gradient(SAPO(), x).abs() * 2, gate * 3, **CLOSE)
    assert gate[1] < gate[0] < 1


def test_sapo_treats_a_zero_signal_as_nothing():
    x = loss_inputs([log(3)], [0], [0], [1], [1])
    assert value(SAPO(), x).item() == 0.0
    assert gradient(SAPO(), x).item() == 0.0


def test_sft_ignores_wrong_responses():
    x = random_inputs(2)
    wrong_N = x.reward_N == 0
    changed = dataclasses.replace(x, lp_N=torch.where(wrong_N, x.lp_N - 7.0, x.lp_N))
    torch.testing.assert_close(value(SFT(), changed), value(SFT(), x))
    assert (gradient(SFT(), x)[wrong_N] == 0).all()
    assert (gradient(SFT(), x)[~wrong_N] < 0).all()


def test_mse_weight_acts_on_wrong_responses_alone():
    x = random_inputs(3)
    right_N = x.reward_N == 1
    whole, half, none = (gradient(MSE(negative_weight=w), x) for w in (1.0, 0.5, 0.0))
    torch.testing.assert_close(half[right_N], whole[right_N])
    torch.testing.assert_close(half[~right_N], whole[~right_N] / 2)
    assert (none[~right_N] == 0).all()


def test_mse_raises_right_tokens_and_lowers_wrong_ones():
    x = random_inputs(4)
    assert (gradient(MSE(), x).sign() == torch.where(x.reward_N == 1, -1.0, 1.0)).all()


def test_ce_starts_at_log_2_when_theta_is_old_and_pushes_by_outcome():
    x = random_inputs(6)
    x = dataclasses.replace(x, lp_N=x.old_N.clone())
    assert value(CE(beta=0.01), x).item() == pytest.approx(log(2))
    expected = 0.01 * (0.5 - x.reward_N) / len(x.length_S)
    torch.testing.assert_close(gradient(CE(beta=0.01), x), expected)


def test_the_kl_term_pulls_towards_old_and_vanishes_there():
    x = dataclasses.replace(random_inputs(7), signal_N=torch.zeros(11, dtype=torch.float64))
    torch.testing.assert_close(gradient(GRPO(kl_weight=0.2), x), 0.2 * (x.lp_N - x.old_N) / 11)
    at_old = dataclasses.replace(x, lp_N=x.old_N.clone())
    assert (gradient(GRPO(kl_weight=0.2), at_old) == 0).all()


def test_the_entropy_bonus_reaches_the_entropy_it_rewards():
    x = random_inputs(8)
    entropy_N = x.entropy_N.requires_grad_()
    (grad,) = torch.autograd.grad(value(SAPO(entropy_weight=0.5), x), entropy_N)
    torch.testing.assert_close(grad, torch.full_like(grad, -0.5 / 11))


def test_aggregations_differ_where_lengths_do():
    """A long and a short response with one signal each: sequence means weigh them equally, the
    token mean by length.
    """
    x = loss_inputs([0] * 4, [0] * 4, [1, 1, 1, 5], [1, 1], [3, 1])
    assert value(GRPO(), x).item() == pytest.approx(-3.0)
    assert value(Distill(), x).item() == pytest.approx(-2.0)


# ------------------------------------------------------------------------------------ micro-batches


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("config", CONFIGS, ids=name)
def test_any_split_into_micro_batches_adds_up_to_the_whole(config, data, lengths, seed):
    config = config.model_copy(update={"kl_weight": 0.1, "entropy_weight": 0.2})
    rewards = data.draw(st.lists(st.integers(0, 1), min_size=len(lengths), max_size=len(lengths)))
    part_S = data.draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
    x = random_inputs(seed, lengths, rewards)
    x = dataclasses.replace(x, lp_N=x.lp_N.requires_grad_())
    parts = [[s for s, p in enumerate(part_S) if p == part] for part in sorted(set(part_S))]
    together = sum(value(config, part_of(x, members)) for members in parts)
    whole = value(config, x)
    torch.testing.assert_close(together, whole)
    for ours, expected in zip(
        torch.autograd.grad(together, x.lp_N), torch.autograd.grad(whole, x.lp_N)
    ):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("config", CONFIGS, ids=name)
def test_metrics_are_per_token_and_carry_no_gradient(config):
    x = random_inputs(9)
    _, metrics = objective(config, dataclasses.replace(x, lp_N=x.lp_N.requires_grad_()))
    for column in metrics.values():
        assert column.shape == x.lp_N.shape
        assert not column.requires_grad
