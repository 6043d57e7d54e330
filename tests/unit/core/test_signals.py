"""Token signals: which log-ratio, what is masked, and what whitening does to it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erpd_core.config import SignalSpec
from erpd_core.signals import build_signal, whiten

TEACHER = torch.tensor([-1.0, -2.0, -1.5, -0.5, -3.0])
OLD = torch.tensor([-2.0, -1.0, -1.0, -2.5, -2.0])
POSITIVE = torch.tensor([True, True, False, False, False])
RATIO = torch.tensor([1.0, -1.0, -0.5, 2.0, -1.0])  # TEACHER - OLD


def build(numerator=TEACHER, denominator=OLD, **spec):
    return build_signal(SignalSpec(**spec), numerator, denominator, POSITIVE)


finite = st.floats(-20, 0, width=32)
varied = st.lists(finite, min_size=2, max_size=40).filter(lambda values: max(values) - min(values) > 1e-2)


def test_the_signal_is_numerator_minus_denominator():
    assert build(whiten="off").tolist() == RATIO.tolist()


def test_a_side_that_is_none_counts_as_zero():
    """Table 7: lp_numerator alone, or minus lp_denominator alone."""
    assert build(denominator=None, whiten="off").tolist() == TEACHER.tolist()
    assert build(numerator=None, whiten="off").tolist() == (-OLD).tolist()


def test_no_side_at_all_is_refused():
    with pytest.raises(ValueError, match="numerator or a denominator"):
        build(numerator=None, denominator=None)


@pytest.mark.parametrize(
    ("positives", "expected"), [("all", RATIO.tolist()), ("max", [1.0, 0.0, -0.5, 2.0, -1.0]), ("min", [0.0, -1.0, -0.5, 2.0, -1.0])]
)
def test_max_and_min_act_on_positive_tokens_only(positives, expected):
    """Table 12."""
    assert build(positives=positives, whiten="off").tolist() == expected


@settings(max_examples=60, deadline=None)
@given(varied)
def test_shift_gives_mean_zero_and_variance_one_over_tokens(values):
    white = whiten(torch.tensor(values), "shift").double()
    assert white.mean().item() == pytest.approx(0, abs=1e-4)
    assert white.var(unbiased=False).item() == pytest.approx(1, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(varied, st.floats(-10, 10, width=32))
def test_scale_gives_variance_one_and_keeps_every_sign(values, offset):
    raw = torch.tensor(values) + offset
    white = whiten(raw, "scale")
    assert white.double().var(unbiased=False).item() == pytest.approx(1, abs=1e-3)
    assert (white.sign() == raw.sign()).all()


def test_shift_can_flip_a_sign():
    """Ratios 1 and 3: better than the denominator on both tokens, yet one comes out negative."""
    assert whiten(torch.tensor([1.0, 3.0]), "shift").tolist() == [-1.0, 1.0]
    assert whiten(torch.tensor([1.0, 3.0]), "scale").tolist() == [1.0, 3.0]


def test_off_changes_nothing():
    assert whiten(RATIO, "off").tolist() == RATIO.tolist()


def test_masking_comes_before_whitening_and_the_order_matters():
    """min(0, .) on positives: [0, -1, -0.5, 2, -1], whose mean is -0.1 and variance 1.24 (6.25 / 5 - 0.01)."""
    masked_first = torch.tensor([0.1, -0.9, -0.4, 2.1, -0.9]) / 1.24**0.5
    torch.testing.assert_close(build(positives="min"), masked_first)

    white = (RATIO - RATIO.mean()) / RATIO.std(unbiased=False)
    whitened_first = torch.where(POSITIVE, white.clamp(max=0), white)
    assert (whitened_first - masked_first).abs().max() > 0.1
    assert whitened_first.mean().abs() > 0.1  # whitening first does not leave a whitened signal


@pytest.mark.parametrize("mode", ["shift", "scale"])
@pytest.mark.parametrize("constant", [0.0, 0.1, -3.3])
def test_a_constant_signal_is_refused(mode, constant):
    with pytest.raises(ValueError, match="nothing to distil"):
        build(numerator=OLD.clone().fill_(constant), denominator=None, whiten=mode)


def test_identical_sides_are_refused_whatever_the_whitening():
    """`build_signal` promises to raise when the signal is constant; without whitening a zero signal would train on nothing."""
    with pytest.raises(ValueError, match="nothing to distil"):
        build(numerator=OLD, whiten="off")


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
@pytest.mark.parametrize("mode", ["shift", "off"])
def test_a_signal_that_is_not_finite_is_refused_and_counted(bad, mode):
    broken = TEACHER.clone()
    broken[1] = broken[3] = bad
    with pytest.raises(ValueError, match="2 tokens of the signal are not finite"):
        build(numerator=broken, whiten=mode)


def test_the_columns_are_not_changed():
    before = TEACHER.clone(), OLD.clone()
    build(positives="max")
    assert torch.equal(TEACHER, before[0])
    assert torch.equal(OLD, before[1])
