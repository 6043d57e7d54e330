"""TokenBatch and the order of minibatches."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erpd_core.batch import TokenBatch, minibatches

from .helpers import batches


@pytest.fixture
def example():
    """The example of `TokenBatch`'s docstring."""
    return TokenBatch.build(
        prompts=[[5, 6], [7]],
        responses=[[1, 2], [3], [4, 4, 4]],
        groups=[0, 0, 1],
        rewards=[1, 0, 1],
    )


def test_the_docstring_example_holds(example):
    assert example.token_N.tolist() == [1, 2, 3, 4, 4, 4]
    assert example.seq_N.tolist() == [0, 0, 1, 2, 2, 2]
    assert example.offset_S.tolist() == [0, 2, 3, 6]
    assert [p.tolist() for p in example.prompts] == [[5, 6], [7]]
    assert (example.sequences, example.tokens) == (3, 6)


def test_a_response_is_the_tokens_it_was_built_from(example):
    assert [example.response(s).tolist() for s in range(3)] == [[1, 2], [3], [4, 4, 4]]


def test_token_index_by_hand(example):
    assert example.token_index(torch.tensor([2, 0])).tolist() == [3, 4, 5, 0, 1]


def test_token_index_of_no_sequence_is_empty(example):
    assert example.token_index(torch.tensor([], dtype=torch.int64)).tolist() == []


@settings(max_examples=50, deadline=None)
@given(batches(), st.randoms())
def test_token_index_gathers_whole_responses_in_the_order_asked(batch, random):
    chosen = random.sample(range(batch.sequences), random.randint(1, batch.sequences))
    gathered = batch.token_N[batch.token_index(torch.tensor(chosen))]
    assert gathered.tolist() == [token for s in chosen for token in batch.response(s).tolist()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": [0]}, "must be equal"),
        ({"rewards": [1, 0, 1]}, "must be equal"),
        ({"responses": [[1], []]}, "response 1 has no tokens"),
        ({"prompts": [[5], []]}, "prompt 1 has no tokens"),
    ],
)
def test_a_malformed_batch_is_refused_and_the_message_says_why(change, message):
    good = {"prompts": [[5], [6]], "responses": [[1], [2]], "groups": [0, 1], "rewards": [1, 0]}
    TokenBatch.build(**good)
    with pytest.raises(ValueError, match=message):
        TokenBatch.build(**good | change)


@pytest.mark.parametrize("group", [-1, 2])
def test_a_group_without_a_prompt_is_refused(group):
    """Without the check, -1 would silently select the last prompt."""
    with pytest.raises(ValueError, match="group"):
        TokenBatch.build(prompts=[[5], [6]], responses=[[1]], groups=[group], rewards=[1])


@settings(max_examples=50, deadline=None)
@given(
    sequences=st.integers(1, 20),
    per_epoch=st.integers(1, 5),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_every_epoch_covers_each_sequence_once_when_the_size_divides(
    sequences, per_epoch, epochs, seed
):
    steps = minibatches(sequences * per_epoch, sequences, seed)
    for _ in range(epochs):
        seen = torch.cat(list(islice(steps, per_epoch)))
        assert sorted(seen.tolist()) == list(range(sequences * per_epoch))


def test_the_tail_of_an_epoch_is_dropped():
    epoch = list(islice(minibatches(10, 4, seed=3), 2))
    assert [len(chosen) for chosen in epoch] == [4, 4]
    assert len(set(torch.cat(epoch).tolist())) == 8


def test_a_size_beyond_the_batch_takes_the_whole_batch():
    assert [sorted(chosen.tolist()) for chosen in islice(minibatches(3, 64, seed=0), 2)] == [
        [0, 1, 2],
        [0, 1, 2],
    ]


@settings(max_examples=50, deadline=None)
@given(
    sequences=st.integers(1, 12),
    size=st.integers(1, 12),
    start=st.integers(0, 30),
    seed=st.integers(0, 99),
)
def test_steps_resumed_at_k_are_those_of_an_undisturbed_run(sequences, size, start, seed):
    undisturbed = list(islice(minibatches(sequences, size, seed), start + 8))[start:]
    resumed = list(islice(minibatches(sequences, size, seed, start), 8))
    assert [x.tolist() for x in resumed] == [x.tolist() for x in undisturbed]


def test_epochs_and_seeds_are_shuffled_differently():
    first, second = islice(minibatches(30, 30, seed=0), 2)
    other = next(minibatches(30, 30, seed=1))
    assert first.tolist() != second.tolist()
    assert first.tolist() != other.tolist()
