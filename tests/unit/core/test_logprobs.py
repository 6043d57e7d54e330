"""Values and gradients of token_logprobs, compared with the naive computation."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from erpd_core.logprobs import CHUNK, token_logprobs


def naive(hidden_NH, weight_VH, token_N):
    distribution = torch.distributions.Categorical(logits=hidden_NH @ weight_VH.T)
    return distribution.log_prob(token_N), distribution.entropy()


def example(n, seed=0, width=4, vocab=7):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, width, generator=generator).requires_grad_()
    weight = torch.randn(vocab, width, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(vocab, (n,), generator=generator)


BOUNDARIES = [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 3]


def test_by_hand():
    """Logits 0 and log 3: probabilities 1/4 and 3/4."""
    lp, entropy = token_logprobs(
        torch.ones(1, 1), torch.tensor([[1.0], [3.0]]).log(), torch.tensor([0])
    )
    quarter = torch.tensor(0.25)
    torch.testing.assert_close(lp[0], quarter.log())
    torch.testing.assert_close(
        entropy[0], -(quarter * quarter.log() + (1 - quarter) * (1 - quarter).log())
    )


@pytest.mark.parametrize("n", BOUNDARIES)
def test_log_probs_are_minus_the_cross_entropy(n):
    hidden, weight, token = example(n)
    lp, _ = token_logprobs(hidden, weight, token)
    torch.testing.assert_close(lp, -cross_entropy(hidden @ weight.T, token, reduction="none"))


@pytest.mark.parametrize("n", BOUNDARIES)
def test_entropy_is_that_of_the_categorical_distribution(n):
    hidden, weight, token = example(n)
    _, entropy = token_logprobs(hidden, weight, token)
    torch.testing.assert_close(entropy, naive(hidden, weight, token)[1])


@pytest.mark.parametrize("n", BOUNDARIES)
@pytest.mark.parametrize("parts", ["lp", "entropy", "both"])
def test_gradients_are_autograds_own(n, parts):
    hidden, weight, token = example(n, seed=1)
    generator = torch.Generator().manual_seed(2)
    up_lp, up_entropy = torch.randn(2, n, generator=generator)
    grads = []
    for function in (token_logprobs, naive):
        lp, entropy = function(hidden, weight, token)
        value = {
            "lp": up_lp @ lp,
            "entropy": up_entropy @ entropy,
            "both": up_lp @ lp + up_entropy @ entropy,
        }[parts]
        grads.append(torch.autograd.grad(value, [hidden, weight]))
    for ours, expected in zip(*grads):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)


def test_a_certain_distribution_has_zero_entropy_and_finite_gradients():
    hidden = torch.tensor([[1.0]], requires_grad=True)
    weight = torch.tensor([[0.0], [500.0]], requires_grad=True)
    lp, entropy = token_logprobs(hidden, weight, torch.tensor([0]))
    (lp + entropy).sum().backward()
    assert lp.item() == -500.0
    assert entropy.item() == 0.0
    assert hidden.grad.item() == -500.0  # d lp / dh = w_0 - w_1; the entropy has no slope here
    assert torch.isfinite(weight.grad).all()


def test_bfloat16_hidden_states_give_float32_log_probs():
    hidden, weight, token = example(5)
    low = hidden.detach().bfloat16().requires_grad_(), weight.detach().bfloat16().requires_grad_()
    lp, entropy = token_logprobs(*low, token)
    assert lp.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(lp, naive(*[x.float() for x in low], token)[0], rtol=0.02, atol=0.05)
    (gradient,) = torch.autograd.grad(lp.sum(), low[0])
    assert gradient.dtype == torch.bfloat16


def test_no_gradient_is_recorded_without_grad():
    hidden, weight, token = example(3)
    with torch.no_grad():
        lp, entropy = token_logprobs(hidden, weight, token)
    assert not lp.requires_grad
    assert not entropy.requires_grad
