"""Fitting a bigram critic: learning, correct records, exact resuming, non-finite values."""

import math

import pytest
import torch
from torch import nn

from erpd_core.batch import TokenBatch, minibatches
from erpd_core.config import OptimizerConfig
from erpd_core.critic import explained_variance, fit_values, predict_values
from erpd_core.faults import Fault
from erpd_core.layout import plan
from erpd_core.optimize import make_optimizer

from .helpers import BigramPolicy, random_batch

BATCH = random_batch(1, [2, 3, 1, 2], [4, 1, 3, 5, 2, 2, 6, 3], [0, 0, 1, 1, 2, 2, 3, 3], vocab=6)
REWARD = torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 0])
BATCH = TokenBatch(BATCH.prompts, BATCH.token_N, BATCH.offset_S, BATCH.group_S, REWARD)


class BigramCritic:
    """The bigram policy's hidden state with a scalar head."""

    def __init__(self):
        self.body = BigramPolicy()
        self.weight = nn.Parameter(0.1 * torch.randn(8, generator=torch.Generator().manual_seed(3)))
        self.bias = nn.Parameter(torch.tensor(0.5))

    def plan(self, batch, sequences, token_budget):
        return plan(batch, sequences, token_budget)

    def values(self, micro):
        return self.body.hidden(micro) @ self.weight + self.bias

    def parameters(self):
        return [self.body.table, self.weight, self.bias]

    def state(self):
        return [p.detach().clone() for p in self.parameters()]


def naive_values(critic):
    """Values computed token by token.

    The state of a token is the prompt and the response before it.
    """
    values = []
    for s in range(BATCH.sequences):
        prompt, response = BATCH.prompts[int(BATCH.group_S[s])], BATCH.response(s)
        row = torch.cat([prompt, response])
        for position in range(len(prompt) - 1, len(row) - 1):
            values.append(
                torch.tanh(critic.body.table[row[position]] + 0.1 * position) @ critic.weight
                + critic.bias
            )
    return torch.stack(values)


class Run:
    def __init__(self, lr=0.02):
        self.critic = BigramCritic()
        self.optimizer = make_optimizer(self.critic, OptimizerConfig(lr=lr))

    def train(self, steps, start=0, minibatch=4, token_budget=1000, max_grad_norm=1.0, batch=BATCH):
        more = {"seed": 5, "max_grad_norm": max_grad_norm, "token_budget": token_budget}
        return list(
            fit_values(
                self.critic,
                self.optimizer,
                batch,
                steps=steps,
                start=start,
                minibatch=minibatch,
                **more,
            )
        )


def test_values_equal_one_token_at_a_time_in_the_batchs_order():
    for budget in (1, 7, 1000):
        torch.testing.assert_close(
            predict_values(BigramCritic(), BATCH, budget), naive_values(BigramCritic()).detach()
        )


def test_explained_variance_by_hand():
    """R = 1 1 0 0 has variance 1/4. Exact values give 1 and constant values 0. Halved, R - V has
    variance 1/16; reversed, variance 1.
    """
    known = torch.tensor([1.0, 1, 0, 0])
    for value, expected in (
        (known, 1.0),
        (torch.full((4,), 0.3), 0.0),
        (known / 2, 0.75),
        (1 - known, -3.0),
    ):
        assert explained_variance(known, value) == pytest.approx(expected)
    assert explained_variance(torch.ones(4), known) is None


def test_explained_variance_grows_and_the_loss_falls():
    records = Run().train(steps=60, minibatch=8)
    assert records[-1]["explained_variance"] > records[0]["explained_variance"] + 0.3
    assert records[-1]["value_loss"] < records[0]["value_loss"] - 0.05
    assert [record["step"] for record in records] == list(range(1, 61))


def test_records_and_the_gradient_equal_an_independent_recomputation():
    run = Run()
    for step, chosen in zip((1, 2), minibatches(8, 4, seed=5)):
        index = BATCH.token_index(chosen)
        value, known = naive_values(run.critic)[index], REWARD[BATCH.seq_N][index]
        loss = sum((v - r) ** 2 for v, r in zip(value, known)) / len(index)
        grads = torch.autograd.grad(loss, run.critic.parameters())
        value = value.detach()
        expected = {
            "step": step,
            "value_loss": loss.item(),
            "grad_norm": math.sqrt(sum(float(g.square().sum()) for g in grads)),
            "explained_variance": 1
            - float((known - value).var(unbiased=False) / known.var(unbiased=False)),
        }
        (record,) = run.train(steps=step, start=step - 1, token_budget=9)
        assert record == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_fit_resumed_at_step_k_ends_bit_equal(k):
    undisturbed = Run()
    records = undisturbed.train(steps=7)
    first, second = Run(), Run()
    head = first.train(steps=k)
    for parameter, saved in zip(second.critic.parameters(), first.critic.state()):
        parameter.data.copy_(saved)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert head + second.train(steps=7, start=k) == records
    assert all(torch.equal(a, b) for a, b in zip(second.critic.state(), undisturbed.critic.state()))


def test_the_token_budget_does_not_change_the_result():
    """Uses SGD: Adam would normalize and so amplify tiny differences of summation."""
    results = []
    for budget in (1, 9, 1000):
        run = Run()
        run.optimizer = torch.optim.SGD(run.critic.parameters(), lr=0.3)
        results.append((run.train(steps=4, token_budget=budget), run.critic.state()))
    for records, state in results[1:]:
        assert all(
            ours == pytest.approx(expected, rel=1e-4, abs=1e-6)
            for ours, expected in zip(records, results[0][0])
        )
        for ours, expected in zip(state, results[0][1]):
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_a_minibatch_of_one_outcome_has_no_explained_variance():
    only_right = TokenBatch(
        BATCH.prompts, BATCH.token_N, BATCH.offset_S, BATCH.group_S, torch.ones(8)
    )
    (record,) = Run().train(steps=1, batch=only_right)
    assert record.keys() == {"step", "value_loss", "grad_norm"}


def test_nonsense_stops_the_fit_before_it_reaches_the_weights():
    run = Run()
    run.critic.bias.data.fill_(float("inf"))
    before = run.critic.state()
    with pytest.raises(Fault, match=r"step 1: 1 values of its weights .*value_loss is inf"):
        run.train(steps=3)
    assert all(torch.equal(a, b) for a, b in zip(run.critic.state(), before))
