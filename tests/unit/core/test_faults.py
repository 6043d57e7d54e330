"""Numbers with which a training cannot continue.

Each is detected before the update, and one line says what is wrong, where, and how to fix it.
"""

import math
import pickle

import pytest
import torch

from erpd_core.batch_outcomes import BatchOutcomes
from erpd_core.config import (
    CE,
    CISPO,
    DISPO,
    GRPO,
    MSE,
    PPO,
    SAPO,
    SFT,
    VESPO,
    Distill,
    OptimizerConfig,
    Reinforce,
    SignalSpec,
)
from erpd_core.config.losses import LOSS_CONFIGS
from erpd_core.critic import fit_values, require_sound_values
from erpd_core.faults import Fault, placed
from erpd_core.finite import (
    non_finite,
    require_bounded_kl,
    require_finite_column,
    require_finite_weights,
)
from erpd_core.loss_requirements import require_learning_signal
from erpd_core.optimize import make_optimizer, optimize, score
from erpd_core.signals import FixedSignal, build_signal
from erpd_core.step_statistics import Record, StepStatistics

from .helpers import BigramPolicy, loss_inputs, random_batch

BATCH = random_batch(1, [2, 3, 1, 2], [4, 1, 3, 5, 2, 2, 6, 3], [0, 0, 1, 1, 2, 2, 3, 3], vocab=6)
OLD = score(BigramPolicy(), BATCH, 1000)[0]
SIGNAL = torch.linspace(-1, 1, BATCH.tokens)
BROKEN = [math.nan, math.inf, -math.inf]


def train(policy, old=OLD, signal=SIGNAL, loss=None, steps=3, lr=0.01):
    optimizer = make_optimizer(policy, OptimizerConfig(lr=lr))
    return list(
        optimize(
            policy,
            optimizer,
            BATCH,
            old,
            FixedSignal(signal),
            loss or SAPO(),
            steps=steps,
            minibatch=8,
            seed=5,
            max_grad_norm=1.0,
            token_budget=1000,
        )
    )


def with_value(tensor, value, index=2):
    changed = tensor.clone()
    changed.view(-1)[index] = value
    return changed


def test_a_fault_is_one_line_and_survives_the_way_between_processes():
    fault = Fault("grad_norm is nan", "lower the learning rate", "step 12")
    with pytest.raises(Fault) as raised, placed("teacher training"), placed("phase 2"):
        raise fault
    assert (
        str(raised.value)
        == "teacher training, phase 2, step 12: grad_norm is nan; lower the learning rate"
    )
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    assert str(Fault("all is equal", "change it")) == "all is equal; change it"


# -------------------------------------------------------------------------- loss, gradient, weights


@pytest.mark.parametrize("value", BROKEN)
def test_a_column_that_is_not_finite_is_named_and_nothing_is_trained_on_it(value):
    policy = BigramPolicy()
    before = policy.state()
    with pytest.raises(
        Fault,
        match=r"^step 1: 1 values of the old policy's log-probs are not finite .*; start from "
        r"another policy$",
    ):
        train(policy, old=with_value(OLD, value))
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


@pytest.mark.parametrize("value", BROKEN)
def test_a_signal_that_is_not_finite_is_named(value):
    with pytest.raises(Fault, match=r"^step 1: 1 values of the signal are not finite"):
        train(BigramPolicy(), signal=with_value(SIGNAL, value))


@pytest.mark.parametrize("loss", [SFT(), CE()], ids=lambda loss: loss.kind)
def test_old_log_probs_are_looked_at_also_where_the_loss_does_not_need_them(loss):
    with pytest.raises(Fault, match=r"old policy's log-probs"):
        train(BigramPolicy(), old=with_value(OLD, math.nan, 0), loss=loss)


def test_weights_that_have_become_nan_are_named():
    policy = BigramPolicy()
    policy.table.data[1, 1] = math.nan
    with pytest.raises(Fault, match=r"^step 1: 1 values of the weights are not finite"):
        train(policy)


def test_a_gradient_that_is_not_finite_ends_it_before_the_update():
    """The loss is finite; its gradient has the infinite slope of a square root at zero."""
    policy = BigramPolicy()
    original, before = policy.hidden, policy.state()

    def hidden(micro):
        states_NH = original(micro)
        return states_NH + (states_NH * 0).sqrt()

    policy.hidden = hidden
    with pytest.raises(
        Fault, match=r"^step 1: grad_norm is nan; lower the learning rate or constrain the loss$"
    ):
        train(policy)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_a_loss_that_overflows_is_told_by_its_name():
    with pytest.raises(Fault, match=r"^step 1: loss is -?inf, .*; lower the learning rate"):
        train(BigramPolicy(), signal=torch.full_like(SIGNAL, 3e38), loss=Reinforce())


def test_a_healthy_training_has_no_fault():
    assert [record["step"] for record in train(BigramPolicy())] == [1, 2, 3]


def test_weights_are_looked_at_by_name():
    policy = BigramPolicy()
    named = {"table": policy.table, "output": policy.output}
    require_finite_weights(named.items(), 3)
    policy.output.data[0, 0] = math.inf
    with pytest.raises(
        Fault, match=r"^step 3: 1 weights have become NaN or infinite, first output; lower"
    ):
        require_finite_weights(named.items(), 3)


def test_large_finite_numbers_are_finite():
    assert non_finite(torch.full((4,), 3e38)) == 0, "their sum overflows, but they are finite"
    assert non_finite(torch.tensor([1.0, math.nan, -math.inf])) == 2
    with pytest.raises(Fault, match=r"2 of 3 log-probs are not finite; take another"):
        require_finite_column(torch.tensor([1.0, math.nan, -math.inf]), "log-probs", "take another")


# ----------------------------------------------------------------------------------------------- KL


def test_a_student_may_be_as_far_as_guessing_and_no_further():
    require_bounded_kl(statistics_of([-3.4, -3.5]), math.log(32), 5)
    with pytest.raises(
        Fault,
        match=r"^step 5: KL\(old \|\| student\) is 3.6 nats per token; .* 3.47; lower .*kl_stop",
    ):
        require_bounded_kl(statistics_of([-3.5, -3.7]), math.log(32), 5)


def test_one_unlikely_token_that_became_likely_is_no_student_gone_astray():
    record = statistics_of([-0.05] * 499 + [7.4])
    assert record["kl_old_theta_on_old_batch"] > math.log(16), (
        "that one token dominates k3 of the minibatch"
    )
    require_bounded_kl(record, math.log(16), 3)


def statistics_of(log_ratios: list[float]) -> Record:
    """The record of a minibatch whose tokens have these log-ratios of theta over old."""
    old_N = torch.full((len(log_ratios),), -8.0)
    zeros_N = torch.zeros_like(old_N)
    statistics = StepStatistics()
    statistics.add(
        loss_inputs(
            old_N + torch.tensor(log_ratios),
            old_N,
            zeros_N,
            torch.ones(1),
            torch.tensor([len(old_N)]),
            zeros_N,
        ),
        {},
    )
    return statistics.record()


# ------------------------------------------------------------------------------------------ signals


def test_a_mask_that_leaves_nothing_is_refused():
    """All responses are right and the teacher raised every token, so `min` masks all of them."""
    right = torch.ones(BATCH.tokens, dtype=torch.bool)
    with pytest.raises(Fault, match=r"same on every token.*positives"):
        build_signal(SignalSpec(positives="min"), OLD + SIGNAL.abs() + 0.1, OLD, right)


# ---------------------------------------------------------------------------------- learning signal

MIXED = BatchOutcomes(responses=8, right=4, empty=0, truncated=1, groups=4, mixed_groups=4)
NO_RIGHT = BatchOutcomes(responses=8, right=0, empty=0, truncated=1, groups=4, mixed_groups=0)
NO_WRONG = BatchOutcomes(responses=8, right=8, empty=0, truncated=0, groups=4, mixed_groups=0)
ALL_EQUAL = BatchOutcomes(responses=8, right=4, empty=0, truncated=0, groups=4, mixed_groups=0)
GROUPED = (GRPO(), SAPO(), Reinforce(), CISPO(), VESPO(), DISPO())
BOTH = (PPO(), CE(), MSE(), MSE(negative_weight=0.5))


def teaches(outcomes, loss):
    try:
        require_learning_signal(outcomes, loss)
    except Fault:
        return False
    return True


def test_every_loss_says_what_it_needs():
    assert [loss.__name__ for loss in LOSS_CONFIGS if "REQUIRED_OUTCOMES" not in vars(loss)] == []


@pytest.mark.parametrize("loss", [*GROUPED, *BOTH, SFT(), Distill()], ids=lambda loss: loss.kind)
def test_what_each_loss_learns_from(loss):
    expected = {
        "mixed": True,
        "no right": loss.kind == "distill",
        "no wrong": loss.kind in ("sft", "distill"),
        "all groups equal": loss not in GROUPED,
    }
    batches = {
        "mixed": MIXED,
        "no right": NO_RIGHT,
        "no wrong": NO_WRONG,
        "all groups equal": ALL_EQUAL,
    }
    assert {name: teaches(batch, loss) for name, batch in batches.items()} == expected


def test_mse_without_a_weight_on_wrong_responses_needs_none():
    assert teaches(NO_WRONG, MSE(negative_weight=0.0)) and not teaches(
        NO_RIGHT, MSE(negative_weight=0.0)
    )


@pytest.mark.parametrize(
    ("outcomes", "remedy"),
    [
        (NO_RIGHT, "easier prompts"),
        (NO_WRONG, "harder prompts"),
        (ALL_EQUAL, "a loss that needs no groups"),
        (NO_RIGHT.model_copy(update={"truncated": 8}), "raise sampling.max_new_tokens"),
        (ALL_EQUAL.model_copy(update={"groups": 8}), "raise sampling.samples"),
        (NO_RIGHT.model_copy(update={"empty": 8}), "stop tokens"),
    ],
)
def test_the_line_counts_the_outcomes_and_says_what_would_help(outcomes, remedy):
    with pytest.raises(Fault, match=remedy) as raised:
        require_learning_signal(outcomes, GRPO())
    assert str(outcomes) in str(raised.value) and "\n" not in str(raised.value)


# --------------------------------------------------------------------------------------- the critic


class LinearCritic:
    """A critic with one value per token id."""

    def __init__(self, weight=0.0):
        self.weight = torch.nn.Parameter(torch.full((6,), weight))

    def plan(self, batch, sequences, token_budget):
        return BigramPolicy().plan(batch, sequences, token_budget)

    def values(self, micro):
        return self.weight[micro.token_N]

    def parameters(self):
        return [self.weight]


@pytest.mark.parametrize("weight", [math.nan, math.inf, 1e30])
def test_a_critic_whose_loss_is_not_finite_ends_before_the_update(weight):
    critic = LinearCritic(weight)
    optimizer = make_optimizer(critic, OptimizerConfig())
    with pytest.raises(Fault, match=r"^step 1: .*"):
        list(
            fit_values(
                critic,
                optimizer,
                BATCH,
                steps=1,
                minibatch=8,
                seed=1,
                max_grad_norm=1.0,
                token_budget=1000,
            )
        )
    assert not optimizer.state


def test_a_critic_that_is_further_off_than_outcomes_are_apart_has_diverged():
    return_N = BATCH.per_token(BATCH.reward_S)[:]
    require_sound_values(torch.full_like(return_N, 0.5), return_N)
    with pytest.raises(
        Fault,
        match=r"diverged: the mean squared error of its values is \d.*; lower the critic's "
        r"learning rate",
    ):
        require_sound_values(return_N + 1.5, return_N)
    with pytest.raises(Fault, match=r"1 of 26 values are not finite"):
        require_sound_values(with_value(return_N, math.nan), return_N)
