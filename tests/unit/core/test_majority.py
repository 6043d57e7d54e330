"""majority@K: by hand, and properties that hold for any answers."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erpd_core.scoring import avg_at_k, majority_at_k, pass_at_k, pass_curve

answer = st.sampled_from(["a", "b", "c", "right", None])
tries = st.integers(1, 7).flatmap(
    lambda k: st.lists(st.lists(answer, min_size=k, max_size=k), min_size=1, max_size=6)
)


def of(rows):
    """Outcomes and votes of rows in which only the answer `right` is right."""
    votes = {f"p{i}": row for i, row in enumerate(rows)}
    return {
        problem: [float(vote == "right") for vote in row] for problem, row in votes.items()
    }, votes


def majority(*row):
    return majority_at_k(*of([row]))["p0"]


def test_majority_by_hand():
    assert majority("right", "a", "right", "b") == 1
    assert majority("right", "a", "a", "b") == 0
    assert majority("right", "a", "a", "right", "b") == 0.5, (
        "two equally frequent answers, one of them right"
    )
    assert majority("right", "a", "b") == pytest.approx(1 / 3)


def test_who_does_not_answer_does_not_vote():
    assert majority("right", None, None, None) == 1
    assert majority("a", "right", "right", None, None, None) == 1
    assert majority(None, None) == 0


def test_answers_of_one_group_need_not_have_one_verdict():
    """A judge may accept one spelling of the winner and reject another. The score is the mean of
    the winners' outcomes.
    """
    assert majority_at_k({"p": [1.0, 0.0, 0.0]}, {"p": ["a", "a", "b"]}) == {"p": 0.5}


@settings(max_examples=200, deadline=None)
@given(tries, st.randoms(use_true_random=False))
def test_order_and_names_do_not_matter(rows, generator):
    expected = list(majority_at_k(*of(rows)).values())
    shuffled = [generator.sample(row, len(row)) for row in rows]
    assert list(majority_at_k(*of(shuffled)).values()) == pytest.approx(expected)
    renamed = {"a": "c", "b": "a", "c": "b", "right": "right", None: None}
    assert list(
        majority_at_k(*of([[renamed[vote] for vote in row] for row in rows])).values()
    ) == pytest.approx(expected)


@settings(max_examples=200, deadline=None)
@given(tries)
def test_majority_lies_between_0_and_pass_at_k(rows):
    """A majority is right only if a sample is, and always if more than half of all samples are."""
    outcomes, votes = of(rows)
    for problem, value in majority_at_k(outcomes, votes).items():
        right, k = sum(outcomes[problem]), len(outcomes[problem])
        assert 0 <= value <= float(right > 0)
        assert value == 1 or right <= k / 2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(answer, min_size=1, max_size=1), min_size=1, max_size=6))
def test_the_majority_of_one_is_the_average(rows):
    outcomes, votes = of(rows)
    assert sum(majority_at_k(outcomes, votes).values()) / len(rows) == pytest.approx(
        avg_at_k(outcomes).avg
    )


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["right", "a"]), min_size=2, max_size=2), min_size=1, max_size=6
    )
)
def test_the_majority_of_two_is_the_average(rows):
    """Two votes agree or tie, so this detects a rule for ties that favors one side."""
    outcomes, votes = of(rows)
    assert sum(majority_at_k(outcomes, votes).values()) / len(rows) == pytest.approx(
        avg_at_k(outcomes).avg
    )


def test_voting_helps_where_the_right_answer_is_the_most_frequent():
    generator = random.Random(0)
    rows = [
        [generator.choices(["right", "a", "b", "c"], [4, 2, 2, 2])[0] for _ in range(15)]
        for _ in range(200)
    ]
    outcomes, votes = of(rows)
    assert sum(majority_at_k(outcomes, votes).values()) / 200 > avg_at_k(outcomes).avg + 0.2


@pytest.mark.parametrize("votes", [{"q": ["a"]}, {"p": ["a", "b"]}, {}], ids=str)
def test_votes_belong_to_samples(votes):
    with pytest.raises(ValueError, match="one vote"):
        majority_at_k({"p": [1.0]}, votes)


@settings(max_examples=100, deadline=None)
@given(tries)
def test_pass_at_k_grows_with_k_from_the_average(rows):
    outcomes, _ = of(rows)
    k = len(rows[0])
    values = [pass_at_k(outcomes, tried) for tried in range(1, k + 1)]
    assert values[0] == pytest.approx(avg_at_k(outcomes).avg)
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(values))
    assert values[-1] == pytest.approx(sum(any(row) for row in outcomes.values()) / len(rows))


@pytest.mark.parametrize(
    ("k", "tried"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8])]
)
def test_the_curve_has_powers_of_two_and_k(k, tried):
    curve = pass_curve({"p": [1.0] + [0.0] * (k - 1)})
    assert list(curve) == tried
    assert curve == pytest.approx({tries: tries / k for tries in tried})
