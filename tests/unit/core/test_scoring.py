"""AVG@K with clustered intervals, pass@k, and paired comparisons."""

import itertools
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erpd_core.scoring import avg_at_k, compare, p_value, pass_at_k

rows = st.integers(1, 6).flatmap(
    lambda k: st.lists(st.lists(st.integers(0, 1), min_size=k, max_size=k), min_size=1, max_size=8)
)


def named(outcomes):
    return {f"p{i}": row for i, row in enumerate(outcomes)}


def width(score):
    return score.ci95[1] - score.ci95[0]


def test_avg_by_hand():
    """Means 1/4, 3/4 and 1/2: average 1/2, variance 1/16, standard error sqrt(1/48)."""
    score = avg_at_k(named([[1, 0, 0, 0], [1, 1, 0, 1], [1, 0, 1, 0]]))
    assert (score.avg, score.k, score.problems) == (0.5, 4, 3)
    half = 1.959964 * (1 / 48) ** 0.5
    assert score.ci95 == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(rows)
def test_the_interval_lies_within_0_and_1_and_holds_the_average(outcomes):
    score = avg_at_k(named(outcomes))
    assert score.avg == pytest.approx(sum(map(sum, outcomes)) / sum(map(len, outcomes)))
    assert 0 <= score.ci95[0] <= score.avg + 1e-12
    assert score.avg - 1e-12 <= score.ci95[1] <= 1


@pytest.mark.parametrize(
    ("right", "of", "problems"),
    [(4, 4, 30), (0, 4, 30), (2, 4, 30), (1, 5, 3), (2, 5, 6), (1, 3, 100)],
)
def test_problems_that_all_score_the_same_still_leave_an_uncertainty(right, of, problems):
    """Uses Wilson's interval over problems. Rounding in the mean must not count as spread."""
    score = avg_at_k(named([[1] * right + [0] * (of - right)] * problems))
    assert width(score) > 0.05


def test_wilson_by_hand_when_everything_is_right():
    """The interval is n / (n + z^2) to 1."""
    score = avg_at_k(named([[1, 1]] * 10))
    assert score.ci95 == pytest.approx((10 / (10 + 1.959964**2), 1.0), abs=1e-6)


def simulated_problems(generator, problems, k):
    """Outcomes of problems with uniform difficulties, so samples of a problem are correlated.

    The true average is 1/2.
    """
    difficulty = [generator.random() for _ in range(problems)]
    return named([[int(generator.random() < p) for _ in range(k)] for p in difficulty])


def test_the_interval_covers_the_truth_about_95_times_in_100():
    generator = random.Random(0)
    scores = [avg_at_k(simulated_problems(generator, 30, 8)) for _ in range(600)]
    covered = sum(score.ci95[0] <= 0.5 <= score.ci95[1] for score in scores) / len(scores)
    assert 0.91 < covered < 0.98


def test_treating_samples_as_independent_would_cover_far_less():
    """The reason for clustering: the naive interval is too narrow."""
    generator = random.Random(0)
    covered, narrower = 0, 0
    for _ in range(300):
        score = avg_at_k(simulated_problems(generator, 30, 8))
        naive = 1.959964 * (score.avg * (1 - score.avg) / (30 * 8)) ** 0.5
        covered += abs(score.avg - 0.5) < naive
        narrower += 2 * naive < width(score)
    assert covered / 300 < 0.8
    assert narrower / 300 > 0.95


@settings(max_examples=80, deadline=None)
@given(rows, st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(outcomes, data):
    k = data.draw(st.integers(1, len(outcomes[0])))
    shares = []
    for row in outcomes:
        subsets = list(itertools.combinations(row, k))
        shares.append(sum(any(subset) for subset in subsets) / len(subsets))
    assert pass_at_k(named(outcomes), k) == pytest.approx(sum(shares) / len(shares))


def test_pass_at_1_is_the_average():
    outcomes = named([[1, 0, 0], [1, 1, 0]])
    assert pass_at_k(outcomes, 1) == pytest.approx(avg_at_k(outcomes).avg)


@pytest.mark.parametrize("k", [0, 3])
def test_pass_at_k_needs_as_many_samples(k):
    with pytest.raises(ValueError, match="needs 1 <= k <= 2"):
        pass_at_k(named([[1, 0]]), k)


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [({}, "no problem"), ({"a": []}, r"\[0\]"), ({"a": [1], "b": [1, 0]}, r"\[1, 2\]")],
    ids=str,
)
def test_outcomes_without_one_k_are_refused(outcomes, message):
    for measure in (avg_at_k, lambda o: pass_at_k(o, 1), lambda o: compare(o, o)):
        with pytest.raises(ValueError, match=message):
            measure(outcomes)


def test_compare_by_hand():
    """Gains 1/2, 0 and 1: mean 1/2, variance 1/4, standard error sqrt(1/12)."""
    comparison = compare(named([[1, 1], [1, 0], [1, 1]]), named([[1, 0], [0, 1], [0, 0]]))
    assert comparison.difference == pytest.approx(0.5)
    assert comparison.standard_error == pytest.approx((1 / 12) ** 0.5)
    assert comparison.problems == 3
    assert comparison.beyond_noise(1.64)
    assert not comparison.beyond_noise(1.96)
    assert not comparison.beyond_noise(1.64, at_least=0.1)


def test_compare_is_paired_by_problem_and_not_by_order():
    a, b = {"x": [1], "y": [0]}, {"y": [0], "x": [1]}
    assert compare(a, b).difference == 0
    assert compare(a, b).standard_error == 0


def test_pairing_removes_what_problems_share():
    """Very different difficulties, the same gain of about 1/8: clear if paired, within the noise if
    not.
    """
    generator = random.Random(1)
    difficulty = [generator.randint(0, 7) for _ in range(40)]
    a = named(
        [[1] * (d + (i % 8 != 0)) + [0] * (8 - d - (i % 8 != 0)) for i, d in enumerate(difficulty)]
    )
    b = named([[1] * d + [0] * (8 - d) for d in difficulty])
    comparison = compare(a, b)
    assert comparison.beyond_noise(3)
    unpaired = (width(avg_at_k(a)) ** 2 + width(avg_at_k(b)) ** 2) ** 0.5 / 2
    assert unpaired > comparison.difference


def test_compare_is_antisymmetric_and_takes_different_ks():
    a, b = named([[1, 1, 0, 0], [1, 0, 0, 0]]), named([[1, 0], [0, 0]])
    assert compare(a, b).difference == -compare(b, a).difference == pytest.approx(0.125)


def test_compare_refuses_different_problems():
    with pytest.raises(ValueError, match="2 are not shared"):
        compare({"x": [1], "y": [0]}, {"x": [1], "z": [0]})


def test_one_problem_says_nothing_about_noise():
    """The spread of a single problem is unknown, not zero."""
    assert not compare({"x": [1, 0]}, {"x": [0, 0]}).beyond_noise(1.64)


def test_the_interval_of_a_difference_covers_no_difference_about_95_times_in_100():
    """Compares two equally good policies on the same problems of very different difficulty."""
    generator = random.Random(2)
    covered = 0
    for _ in range(600):
        difficulty = [generator.random() for _ in range(30)]
        a, b = (
            named([[int(generator.random() < p) for _ in range(8)] for p in difficulty])
            for _ in range(2)
        )
        low, high = compare(a, b).ci95
        covered += low <= 0 <= high
    assert 0.91 < covered / 600 < 0.98


def test_the_interval_of_a_difference_by_hand_and_where_there_is_no_spread():
    comparison = compare(named([[1, 1], [1, 0], [1, 1]]), named([[1, 0], [0, 1], [0, 0]]))
    half = 1.959964 * (1 / 12) ** 0.5
    assert comparison.ci95 == pytest.approx((0.5 - half, 1.0), abs=1e-6), "cut at 1"
    alike = compare(named([[1]] * 10), named([[1]] * 10)).ci95
    assert alike == pytest.approx(
        (-(1.959964**2) / (10 + 1.959964**2), 1.959964**2 / (10 + 1.959964**2)), abs=1e-6
    )
    assert compare({"x": [1]}, {"x": [0]}).ci95 == (-1, 1), "one problem says nothing"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=7))
def test_the_p_value_counts_all_ways_to_turn_differences_round(solved):
    """Compares with a plain enumeration of 2^n signs, for different K."""
    a = named([[1] * left + [0] * (4 - left) for left, _ in solved])
    b = named([[1] * right + [0] * (3 - right) for _, right in solved])
    gains = [3 * left - 4 * right for left, right in solved]
    sums = [
        sum(sign * gain for sign, gain in zip(signs, gains, strict=True))
        for signs in itertools.product((1, -1), repeat=len(gains))
    ]
    assert p_value(a, b) == pytest.approx(
        sum(abs(total) >= abs(sum(gains)) for total in sums) / len(sums)
    )
    assert p_value(a, b) == pytest.approx(p_value(b, a))


def test_p_values_by_hand():
    assert p_value(named([[1]] * 5), named([[0]] * 5)) == pytest.approx(2 / 32), (
        "all five in one direction: 2 of 32 choices of signs"
    )
    assert p_value(named([[1, 0]] * 5), named([[0, 1]] * 5)) == 1


def test_equal_policies_are_called_different_no_more_than_5_times_in_100():
    generator = random.Random(3)
    called = 0
    for _ in range(400):
        difficulty = [generator.random() for _ in range(20)]
        a, b = (
            named([[int(generator.random() < p) for _ in range(4)] for p in difficulty])
            for _ in range(2)
        )
        called += p_value(a, b) < 0.05
    assert 5 <= called <= 30


def test_a_large_comparison_is_quick():
    generator = random.Random(4)
    a, b = (
        named([[int(generator.random() < p) for _ in range(32)] for _ in range(400)])
        for p in (0.5, 0.47)
    )
    started = time.process_time()
    assert p_value(a, b) < 0.01
    assert time.process_time() - started < 10
