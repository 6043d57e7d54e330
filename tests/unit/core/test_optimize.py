"""Training a bigram policy: learning, correct records, exact resuming, non-finite values."""

import math

import pytest
import torch

from erpd_core.batch import TokenBatch, minibatches
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
)
from erpd_core.faults import Fault
from erpd_core.optimize import make_optimizer, objective, optimize, score
from erpd_core.signals import FixedSignal

from .helpers import BigramPolicy, loss_inputs, naive_scores, random_batch, totals_of

BATCH = random_batch(1, [2, 3, 1, 2], [4, 1, 3, 5, 2, 2, 6, 3], [0, 0, 1, 1, 2, 2, 3, 3], vocab=6)
REWARD = torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 0])
BATCH = TokenBatch(BATCH.prompts, BATCH.token_N, BATCH.offset_S, BATCH.group_S, REWARD)
SIGNAL = (2 * REWARD - 1)[BATCH.seq_N]
OLD = score(BigramPolicy(), BATCH, 1000)[0]


class Run:
    """A policy and its optimizer; `train` returns the records of its steps."""

    def __init__(self, lr=0.05):
        self.policy = BigramPolicy()
        self.optimizer = make_optimizer(self.policy, OptimizerConfig(lr=lr))

    def train(
        self,
        loss,
        steps,
        start=0,
        minibatch=4,
        token_budget=1000,
        max_grad_norm=1.0,
        old=OLD,
        signal=SIGNAL,
        seed=5,
        batch=BATCH,
    ):
        return list(
            optimize(
                self.policy,
                self.optimizer,
                batch,
                old,
                FixedSignal(signal),
                loss,
                steps=steps,
                minibatch=minibatch,
                seed=seed,
                max_grad_norm=max_grad_norm,
                token_budget=token_budget,
                start=start,
            )
        )


def test_score_equals_one_token_at_a_time_in_the_batchs_order():
    expected_lp, expected_entropy = naive_scores(BigramPolicy(), BATCH)
    for budget in (1, 7, 1000):
        lp, entropy = score(BigramPolicy(), BATCH, budget)
        torch.testing.assert_close(lp, expected_lp.detach())
        torch.testing.assert_close(entropy, expected_entropy.detach())
        assert not lp.requires_grad


LEARNING = [SAPO(), GRPO(), CE(beta=0.5), Distill(), Reinforce(), CISPO(), VESPO(), DISPO()]


@pytest.mark.parametrize("loss", LEARNING, ids=lambda c: c.kind)
def test_rewarded_responses_become_likelier_and_wrong_ones_rarer(loss):
    run = Run(lr=0.01)
    run.train(loss, steps=20, minibatch=8)
    change_S = (
        torch.zeros(8).index_add(0, BATCH.seq_N, score(run.policy, BATCH, 1000)[0] - OLD)
        / BATCH.length_S
    )
    assert change_S[REWARD == 1].mean() > 0.05
    assert change_S[REWARD == 0].mean() < -0.05


def test_sft_raises_rewarded_responses_and_mse_fits_their_probabilities():
    run = Run()
    run.train(SFT(), steps=20, minibatch=8)
    assert (score(run.policy, BATCH, 1000)[0] - OLD)[SIGNAL > 0].mean() > 0.3
    records = Run().train(MSE(), steps=60, minibatch=8)
    assert records[-1]["loss"] < records[0]["loss"] - 0.1
    assert records[-1]["explained_variance"] > records[0]["explained_variance"] + 0.3


def test_an_entropy_bonus_raises_entropy():
    plain, with_bonus = Run(), Run()
    plain.train(SAPO(), steps=20, minibatch=8)
    with_bonus.train(SAPO(entropy_weight=0.5), steps=20, minibatch=8)
    assert (
        score(with_bonus.policy, BATCH, 1000)[1].mean()
        > score(plain.policy, BATCH, 1000)[1].mean() + 0.05
    )


def test_a_kl_weight_keeps_the_policy_near_old():
    free, held = Run(), Run()
    free.train(SAPO(), steps=20, minibatch=8)
    held.train(SAPO(kl_weight=5.0), steps=20, minibatch=8)
    moved = [(score(run.policy, BATCH, 1000)[0] - OLD).square().mean() for run in (free, held)]
    assert moved[1] < moved[0] / 2


def test_records_equal_an_independent_recomputation():
    """Two steps. Before each, everything is recomputed from the current policy, token by token."""
    run, loss = Run(), GRPO(kl_weight=0.1)
    for step, chosen in zip((1, 2), minibatches(8, 4, seed=5)):
        lp_N, entropy_N = naive_scores(run.policy, BATCH)
        index = BATCH.token_index(chosen)
        lp, old, reward = lp_N[index], OLD[index], REWARD[BATCH.seq_N][index]
        x = loss_inputs(
            lp, old, SIGNAL[index], REWARD[chosen], BATCH.length_S[chosen], entropy_N[index]
        )
        value, metrics = objective(loss, x)
        grads = torch.autograd.grad(value, run.policy.parameters())
        p = lp.detach().exp()
        log_ratio = lp.detach() - old
        expected = {
            "step": step,
            "loss": value.item(),
            "grad_norm": math.sqrt(sum(float(g.square().sum()) for g in grads)),
            "entropy": entropy_N[index].mean().item(),
            "kl_old_theta_on_old_batch": (log_ratio.exp() - 1 - log_ratio).mean().item(),
            "clip_fraction": metrics["clip_fraction"].mean().item(),
            "ratio_mean": log_ratio.exp().mean().item(),
            "ratio_max": log_ratio.exp().max().item(),
            "ratio_min": log_ratio.exp().min().item(),
            "prob_positive": p[reward == 1].mean().item(),
            "prob_negative": p[reward == 0].mean().item(),
            "log_ratio_positive": log_ratio[reward == 1].mean().item(),
            "log_ratio_negative": log_ratio[reward == 0].mean().item(),
            "explained_variance": 1
            - (reward - p).var(unbiased=False).item() / reward.var(unbiased=False).item(),
        }
        (record,) = run.train(loss, steps=step, start=step - 1, token_budget=9)
        assert record == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_minibatch_of_one_outcome_has_no_explained_variance():
    only_right = TokenBatch(
        BATCH.prompts, BATCH.token_N, BATCH.offset_S, BATCH.group_S, torch.ones(8)
    )
    (record,) = Run().train(SAPO(), steps=1, batch=only_right)
    assert "explained_variance" not in record
    assert "prob_negative" not in record
    assert 0 < record["prob_positive"] < 1


def test_one_step_is_adamw_on_the_clipped_gradient():
    """The first step by hand: the gradient is clipped to norm 0.01, then Adam's first update is
    lr * g / (|g| + eps).
    """
    run = Run(lr=0.1)
    (before, _), chosen = run.policy.state(), next(minibatches(8, 8, seed=5))
    lp_N, entropy_N = naive_scores(run.policy, BATCH)
    index = BATCH.token_index(chosen)
    x = loss_inputs(
        lp_N[index],
        OLD[index],
        SIGNAL[index],
        REWARD[chosen],
        BATCH.length_S[chosen],
        entropy_N[index],
    )
    grads = torch.autograd.grad(objective(SAPO(), x)[0], run.policy.parameters())
    norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
    clipped = grads[0] * min(1.0, 0.01 / norm)
    (record,) = run.train(SAPO(), steps=1, minibatch=8, max_grad_norm=0.01)
    assert record["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert norm > 0.01
    certain = clipped.abs() > 1e-6
    expected = before - 0.1 * clipped / (clipped.abs() + 1e-8)
    torch.testing.assert_close(
        run.policy.table.detach()[certain], expected[certain], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_run_resumed_at_step_k_ends_bit_equal(k):
    undisturbed = Run()
    records = undisturbed.train(SAPO(), steps=7)
    first = Run()
    head = first.train(SAPO(), steps=k)
    second = Run()
    for parameter, saved in zip(second.policy.parameters(), first.policy.state()):
        parameter.data.copy_(saved)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    tail = second.train(SAPO(), steps=7, start=k)
    assert head + tail == records
    for ours, expected in zip(second.policy.state(), undisturbed.policy.state()):
        assert torch.equal(ours, expected)


def test_a_finished_run_takes_no_further_step():
    run = Run()
    before = run.policy.state()
    assert run.train(SAPO(), steps=5, start=5) == []
    assert all(torch.equal(a, b) for a, b in zip(run.policy.state(), before))


BUDGETED = [
    SAPO(),
    GRPO(entropy_weight=0.1),
    CE(),
    MSE(),
    SFT(),
    Distill(kl_weight=0.1),
    Reinforce(kl_weight=0.1),
    CISPO(),
    VESPO(),
    DISPO(),
]


@pytest.mark.parametrize("loss", BUDGETED, ids=lambda c: c.kind)
def test_the_token_budget_does_not_change_the_result(loss):
    """Uses SGD: Adam would normalize and so amplify tiny differences of summation."""
    results = []
    for budget in (1, 9, 1000):
        run = Run()
        run.optimizer = torch.optim.SGD(run.policy.parameters(), lr=0.3)
        records = run.train(loss, steps=4, token_budget=budget)
        results.append((run.policy.state(), records))
    for state, records in results[1:]:
        for ours, expected in zip(state, results[0][0]):
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
        for ours, expected in zip(records, results[0][1]):
            assert ours == pytest.approx(expected, rel=1e-4, abs=1e-6)


IDLE = [SAPO(), GRPO(), PPO(), Reinforce(), CISPO(), VESPO(), DISPO()]
MIXED_S = torch.tensor([1.0, -1.0, 0, 0, 1.0, -1.0, 0, 0])
"""The advantages of groups of which every second one has one outcome only."""


class CountingPolicy(BigramPolicy):
    """Counts the sequences that pass through it."""

    passes = 0

    def plan(self, batch, sequences, token_budget):
        self.passes += len(sequences)
        return super().plan(batch, sequences, token_budget)


def stepped(loss, signal, config=None, steps=6):
    """A run with momentum and weight decay; `config` may turn skipping off."""
    run = Run()
    run.policy = CountingPolicy()
    run.optimizer = make_optimizer(run.policy, OptimizerConfig(lr=0.02, weight_decay=0.1))
    return run, run.train(config or loss, steps=steps, signal=signal)


@pytest.mark.parametrize("loss", IDLE, ids=lambda c: c.kind)
@pytest.mark.parametrize("column", ["per sequence", "per token"])
def test_responses_without_a_signal_get_no_pass_and_change_nothing(loss, column):
    signal = BATCH.per_token(MIXED_S)
    signal = signal if column == "per sequence" else signal[:]
    run, records = stepped(loss, signal)
    never = type(loss)(kl_weight=1e-12)  # a penalty on every token, too small to matter
    whole, expected = stepped(never, signal)
    assert (run.policy.passes, whole.policy.passes) == (12, 24)
    assert sum(record["skipped"] for record in records) == 12 and "skipped" not in expected[0]
    for ours, theirs in zip(run.policy.state(), whole.policy.state()):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(records, expected):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4, abs=1e-6)


def test_a_minibatch_without_any_signal_still_moves_by_momentum():
    """Its step is that of zero gradients, not no step."""
    signal = BATCH.per_token(torch.tensor([1.0, -1.0, 0, 0, 0, 0, 0, 0]))
    run, records = stepped(SAPO(), signal, steps=8)
    whole, _ = stepped(SAPO(), signal, SAPO(kl_weight=1e-12), steps=8)
    assert 3 in {record["skipped"] for record in records}, "one of four had its pass"
    for ours, theirs in zip(run.policy.state(), whole.policy.state()):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [SAPO(kl_weight=0.1), GRPO(entropy_weight=0.1), CE(), MSE(), SFT(), Distill()],
    ids=lambda c: f"{c.kind} {c.kl_weight} {c.entropy_weight}",
)
def test_a_loss_that_acts_without_a_signal_skips_nothing(loss):
    run, records = stepped(loss, BATCH.per_token(MIXED_S), steps=2)
    assert run.policy.passes == 8 and "skipped" not in records[0]


def test_the_seed_is_the_only_source_of_chance():
    first, again, other = Run(), Run(), Run()
    assert first.train(SAPO(), steps=3) == again.train(SAPO(), steps=3)
    assert first.train(SAPO(), steps=3) != other.train(SAPO(), steps=3, seed=6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nonsense_stops_the_run_before_it_reaches_the_weights(bad):
    run = Run()
    signal = SIGNAL.clone()
    signal[0] = bad
    before = run.policy.state()
    with pytest.raises(Fault, match="step 1: 1 values of the signal"):
        run.train(SAPO(), steps=3, minibatch=8, signal=signal)
    assert all(torch.equal(a, b) for a, b in zip(run.policy.state(), before))


def test_totals_count_the_minibatch():
    totals = totals_of(BATCH.length_S, BATCH.reward_S)
    assert (totals.tokens, totals.sequences, totals.positive_tokens) == (26, 8, 17)
