"""KL estimators: by hand, and in expectation over all outcomes of a small distribution."""

import math

import pytest
import torch

from erpd_core.kl import k1, k2, k3

P = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
Q = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)


def exact(p, q):
    return (p * (p / q).log()).sum()


def test_by_hand():
    """The sampler's probability is 1/2, the other's 1/4: the log-ratio is log 2."""
    sampler, other = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    assert k1(sampler, other).item() == pytest.approx(math.log(2))
    assert k2(sampler, other).item() == pytest.approx(math.log(2) ** 2 / 2)
    assert k3(sampler, other).item() == pytest.approx(0.5 - 1 + math.log(2))


@pytest.mark.parametrize("estimator", [k1, k3])
def test_expectation_over_the_sampler_is_the_exact_kl(estimator):
    expected = (P * estimator(P.log(), Q.log())).sum()
    torch.testing.assert_close(expected, exact(P, Q))


@pytest.mark.parametrize("estimator", [k1, k3])
def test_the_direction_is_sampler_to_other(estimator):
    assert (Q * estimator(Q.log(), P.log())).sum().item() == pytest.approx(exact(Q, P).item())
    assert abs(exact(P, Q) - exact(Q, P)) > 0.05  # the example separates the directions


def test_k2_is_biased_and_k1_alone_can_be_negative():
    assert abs((P * k2(P.log(), Q.log())).sum() - exact(P, Q)) > 0.01
    assert (k1(P.log(), Q.log()) < 0).any()
    assert (k2(P.log(), Q.log()) >= 0).all()
    assert (k3(P.log(), Q.log()) >= 0).all()


def test_expected_k2_gradient_is_that_of_the_reverse_kl_and_k3s_is_not():
    """Gradients over logits on theta's own samples, sampling not differentiated. Therefore k2 is
    the penalty; k3 would be biased.
    """
    logits = P.log().clone().requires_grad_()

    def gradient(value):
        return torch.autograd.grad(value, logits)[0]

    lp = logits.log_softmax(0)
    true = gradient((lp.exp() * (lp - Q.log())).sum())
    through_k2 = gradient((P * k2(logits.log_softmax(0), Q.log())).sum())
    through_k3 = gradient((P * k3(logits.log_softmax(0), Q.log())).sum())
    torch.testing.assert_close(through_k2, true)
    assert (through_k3 - true).abs().max() > 0.05


def test_k3_keeps_tiny_differences():
    """exp(x) - 1 - x would be 0 in float32 at x = 1e-4."""
    assert k3(torch.tensor([1e-4]), torch.tensor([0.0])).item() == pytest.approx(5e-9, rel=1e-2)
