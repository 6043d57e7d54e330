"""Token signals: their log-ratios, masks and whitening."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erpd_core.config import SignalSpec
from erpd_core.faults import Fault
from erpd_core.signals import FixedSignal, LiveSignal, build_signal, weighted_sum, whiten

TEACHER = torch.tensor([-1.0, -2.0, -1.5, -0.5, -3.0])
OLD = torch.tensor([-2.0, -1.0, -1.0, -2.5, -2.0])
POSITIVE = torch.tensor([True, True, False, False, False])
RATIO = torch.tensor([1.0, -1.0, -0.5, 2.0, -1.0])  # TEACHER - OLD


def build(numerator=TEACHER, denominator=OLD, **spec):
    return build_signal(SignalSpec(**spec), numerator, denominator, POSITIVE)[:]


finite = st.floats(-20, 0, width=32, allow_subnormal=False)
varied = st.lists(finite, min_size=2, max_size=40).filter(
    lambda values: max(values) - min(values) > 1e-2
)


def test_the_signal_is_numerator_minus_denominator():
    assert build(whiten="off").tolist() == RATIO.tolist()


def test_a_side_that_is_none_counts_as_zero():
    """Table 7: the signal is lp_numerator alone, or minus lp_denominator alone."""
    assert build(denominator=None, whiten="off").tolist() == TEACHER.tolist()
    assert build(numerator=None, whiten="off").tolist() == (-OLD).tolist()


def test_no_side_at_all_is_refused():
    with pytest.raises(ValueError, match="numerator or a denominator"):
        build(numerator=None, denominator=None)


@pytest.mark.parametrize(
    ("positives", "expected"),
    [
        ("all", RATIO.tolist()),
        ("max", [1.0, 0.0, -0.5, 2.0, -1.0]),
        ("min", [0.0, -1.0, -0.5, 2.0, -1.0]),
    ],
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
@given(varied, st.floats(-10, 10, width=32, allow_subnormal=False))
def test_scale_gives_variance_one_and_keeps_every_sign(values, offset):
    raw = torch.tensor(values) + offset
    white = whiten(raw, "scale")
    assert white.double().var(unbiased=False).item() == pytest.approx(1, abs=1e-3)
    assert (white.sign() == raw.sign()).all()


def test_shift_can_flip_a_sign():
    """Log-ratios 1 and 3: the numerator is better on both tokens, but one result is negative."""
    assert whiten(torch.tensor([1.0, 3.0]), "shift").tolist() == [-1.0, 1.0]
    assert whiten(torch.tensor([1.0, 3.0]), "scale").tolist() == [1.0, 3.0]


def test_off_changes_nothing():
    assert whiten(RATIO, "off").tolist() == RATIO.tolist()


def test_masking_comes_before_whitening_and_the_order_matters():
    """min(0, .) on positives: [0, -1, -0.5, 2, -1], with mean -0.1 and variance 1.24 (6.25 / 5 -
    0.01).
    """
    masked_first = torch.tensor([0.1, -0.9, -0.4, 2.1, -0.9]) / 1.24**0.5
    torch.testing.assert_close(build(positives="min"), masked_first)

    white = (RATIO - RATIO.mean()) / RATIO.std(unbiased=False)
    whitened_first = torch.where(POSITIVE, white.clamp(max=0), white)
    assert (whitened_first - masked_first).abs().max() > 0.1
    assert whitened_first.mean().abs() > 0.1  # whitening first does not leave a whitened signal


@pytest.mark.parametrize("mode", ["shift", "scale"])
@pytest.mark.parametrize("constant", [0.0, 0.1, -3.3])
def test_a_constant_signal_is_refused(mode, constant):
    with pytest.raises(Fault, match="nothing to distil"):
        build(numerator=OLD.clone().fill_(constant), denominator=None, whiten=mode)


def test_identical_sides_are_refused_whatever_the_whitening():
    """`build_signal` refuses a constant signal even without whitening: it would train nothing."""
    with pytest.raises(Fault, match="nothing to distil"):
        build(numerator=OLD, whiten="off")


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
@pytest.mark.parametrize("mode", ["shift", "off"])
def test_a_signal_that_is_not_finite_is_refused_and_counted(bad, mode):
    broken = TEACHER.clone()
    broken[1] = broken[3] = bad
    with pytest.raises(Fault, match="2 tokens of the signal are not finite"):
        build(numerator=broken, whiten=mode)


def test_the_columns_are_not_changed():
    before = TEACHER.clone(), OLD.clone()
    build(positives="max")
    assert torch.equal(TEACHER, before[0])
    assert torch.equal(OLD, before[1])


def test_clip_cuts_the_whitened_signal_in_standard_deviations():
    ratio = torch.tensor([0.0] * 99 + [50.0])
    white = build_signal(SignalSpec(clip=3.0), ratio, None, torch.ones(100, dtype=torch.bool))[:]
    assert white.max().item() == 3.0
    torch.testing.assert_close(white[:99], whiten(ratio, "shift")[:99])


# ------------------------------------------------------------------ live denominator, weighted sums


def live(**spec):
    return LiveSignal(SignalSpec(denominator="live", **spec), TEACHER, OLD, POSITIVE)


EVERY = torch.arange(5)


@pytest.mark.parametrize(
    "spec", [{}, {"whiten": "off"}, {"whiten": "scale", "positives": "min"}, {"clip": 0.5}]
)
def test_a_live_denominator_begins_as_the_fixed_one(spec):
    """At the start, the policy in training equals old."""
    torch.testing.assert_close(live(**spec).at(EVERY, OLD), build(**spec))


def test_a_live_denominator_pulls_no_more_where_the_student_has_reached_the_teacher():
    """Fig. 7: beyond the teacher the signal pulls back; with a fixed denominator it does not."""
    signal = live(whiten="scale")
    assert signal.at(EVERY, TEACHER).tolist() == [0.0] * 5
    beyond = TEACHER + 0.1 * (TEACHER - OLD)
    assert (signal.at(EVERY, beyond).sign() == -(TEACHER - OLD).sign()).all()


def test_a_live_signal_is_asked_for_by_micro_batch_and_gives_no_gradient():
    lp = OLD.clone().requires_grad_()
    some = torch.tensor([3, 1])
    part = live().at(some, lp[some])
    assert not part.requires_grad
    torch.testing.assert_close(part, live().at(EVERY, OLD)[some])


def test_a_fixed_signal_does_not_look_at_the_policy():
    some = torch.tensor([4, 0])
    assert (
        FixedSignal(RATIO).at(some, TEACHER[some]).tolist()
        == FixedSignal(RATIO).at(some, OLD[some]).tolist()
        == [-1.0, 1.0]
    )


def test_a_weighted_sum_is_whitened_again_and_knows_only_relative_weights():
    a, b = build(), build(positives="min")
    plain = whiten(0.5 * a + 2.0 * b, "shift")
    torch.testing.assert_close(weighted_sum([(0.5, a), (2.0, b)], "shift")[:], plain)
    torch.testing.assert_close(weighted_sum([(1.0, a), (4.0, b)], "shift")[:], plain)
    torch.testing.assert_close(weighted_sum([(3.0, a)], "shift")[:], a)
