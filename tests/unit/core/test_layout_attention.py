"""Packed rows with shared prompts equal padded rows on a tiny random Qwen3; plans are valid."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AttentionInterface, Qwen3Config, Qwen3ForCausalLM

from erpd_core.attention import (
    FlatRow,
    attend_by_branch,
    attend_in_one_kernel,
    shared_prefix_attention,
)
from erpd_core.batch import TokenBatch
from erpd_core.config import CE, GRPO, MSE, SAPO, SFT, Distill
from erpd_core.layout import plan
from erpd_core.logprobs import token_logprobs
from erpd_core.losses import LossInputs
from erpd_core.optimize import objective

from . import oracle
from .helpers import batches, random_batch, totals_of

AttentionInterface.register("erpd_shared", shared_prefix_attention)
VOCAB = 16


@functools.cache
def qwen3(attention):
    """A model with this attention; its random weights are always the same."""
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=False,
    )
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                # With the initial 0.02, attention is nearly uniform and would hide mistakes.
                weight.mul_(8.0)
    return model


def packed_scores(batch, token_budget, sequences=None):
    """(lp_N, entropy_N) in the batch's order, by `plan` and shared-prefix attention."""
    model = qwen3("erpd_shared")
    order, lps, entropies = [], [], []
    for micro in plan(
        batch, torch.arange(batch.sequences) if sequences is None else sequences, token_budget
    ):
        hidden_TH = model.model(
            input_ids=micro.input_T[None],
            position_ids=micro.position_T[None],
            attention_mask={"full_attention": None},
            use_cache=False,
            row=FlatRow(micro, torch.device("cpu")),
        ).last_hidden_state[0]
        lp, entropy = token_logprobs(
            hidden_TH[micro.predict_N], model.lm_head.weight, micro.token_N
        )
        order.append(batch.token_index(micro.sequences))
        lps.append(lp)
        entropies.append(entropy)
    rank = torch.cat(order).argsort()
    return torch.cat(lps)[rank], torch.cat(entropies)[rank]


def padded_rows(batch):
    """Token ids and mask of one right-padded row per sequence: its prompt and response."""
    rows = [
        torch.cat([batch.prompts[int(batch.group_S[s])], batch.response(s)])
        for s in range(batch.sequences)
    ]
    width = max(len(row) for row in rows)
    ids = torch.stack([torch.cat([row, row.new_zeros(width - len(row))]) for row in rows])
    mask = torch.stack([torch.arange(width) < len(row) for row in rows]).long()
    return ids, mask


def padded_scores(batch):
    ids, mask = padded_rows(batch)
    logits = qwen3("eager")(input_ids=ids, attention_mask=mask, use_cache=False).logits
    distribution = torch.distributions.Categorical(logits=logits[:, :-1])
    lp, entropy = distribution.log_prob(ids[:, 1:]), distribution.entropy()
    lps, entropies = [], []
    for s in range(batch.sequences):
        first = len(batch.prompts[int(batch.group_S[s])]) - 1
        part = slice(first, first + int(batch.length_S[s]))
        lps.append(lp[s, part])
        entropies.append(entropy[s, part])
    return torch.cat(lps), torch.cat(entropies)


CLOSE = {"rtol": 1e-4, "atol": 1e-5}
budgets = st.sampled_from([1, 8, 13, 20, 40, 10_000])


@settings(max_examples=40, deadline=None)
@given(batches(), budgets)
def test_packed_scores_equal_padded_scores(batch, budget):
    with torch.no_grad():
        lp, entropy = packed_scores(batch, budget)
        expected_lp, expected_entropy = padded_scores(batch)
    torch.testing.assert_close(lp, expected_lp, **CLOSE)
    torch.testing.assert_close(entropy, expected_entropy, **CLOSE)


def test_long_and_short_branches_in_several_buckets_equal_padded_scores():
    batch = random_batch(3, [90, 2, 30], [100, 70, 3, 1, 65, 2], [0, 0, 0, 1, 1, 2], vocab=VOCAB)
    assert len(plan(batch, torch.arange(6), 10_000)[0].buckets) > 1
    with torch.no_grad():
        lp, entropy = packed_scores(batch, 10_000)
        expected_lp, expected_entropy = padded_scores(batch)
    torch.testing.assert_close(lp, expected_lp, **CLOSE)
    torch.testing.assert_close(entropy, expected_entropy, **CLOSE)


LOSS_CONFIGS = [
    GRPO(),
    SAPO(entropy_weight=0.5),
    CE(beta=0.3),
    MSE(negative_weight=0.5),
    SFT(),
    Distill(kl_weight=0.2),
]


@settings(max_examples=4, deadline=None)
@given(batch=batches(), budget=budgets, seed=st.integers(0, 99))
@pytest.mark.parametrize("config", LOSS_CONFIGS, ids=lambda c: c.kind)
def test_packed_gradients_of_every_loss_equal_those_of_padded_rows_and_plain_formulas(
    config, batch, budget, seed
):
    generator = torch.Generator().manual_seed(seed)
    batch.reward_S[0] = 1.0  # SFT needs a right response
    signal = torch.randn(batch.tokens, generator=generator)
    with torch.no_grad():
        old = padded_scores(batch)[0] + 0.3 * torch.randn(batch.tokens, generator=generator)

    lp, entropy = packed_scores(batch, budget)
    x = LossInputs(
        lp,
        old,
        signal,
        entropy,
        batch.reward_S,
        batch.seq_N,
        batch.length_S,
        totals_of(batch.length_S, batch.reward_S),
    )
    ours = objective(config, x)[0]
    lp, entropy = padded_scores(batch)
    expected = oracle.policy_loss(
        config,
        oracle.rows_of(lp, old, signal, entropy, batch.length_S.tolist()),
        batch.reward_S.tolist(),
    )
    torch.testing.assert_close(ours, expected, **CLOSE)

    ours = torch.autograd.grad(ours, list(qwen3("erpd_shared").parameters()))
    expected = torch.autograd.grad(expected, list(qwen3("eager").parameters()))
    scale = max(float(g.abs().max()) for g in expected)
    for mine, theirs in zip(ours, expected):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * scale + 1e-7)


def test_a_response_does_not_see_its_siblings():
    """Changing one sample of a group changes no score of the others."""
    prompts, groups, rewards = [[3, 1, 4]], [0, 0, 0], [1, 0, 1]
    with torch.no_grad():
        lp, _ = packed_scores(
            TokenBatch.build(prompts, [[5, 6, 7], [8, 9], [2, 2]], groups, rewards), 10_000
        )
        other, _ = packed_scores(
            TokenBatch.build(prompts, [[5, 6, 7], [1, 1], [2, 2]], groups, rewards), 10_000
        )
    assert lp[[0, 1, 2, 5, 6]].tolist() == pytest.approx(other[[0, 1, 2, 5, 6]].tolist(), abs=1e-6)
    assert (lp[[3, 4]] - other[[3, 4]]).abs().min() > 1e-3


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [None, 4])
def test_one_kernel_over_the_row_sees_what_its_branches_see(window):
    """Forward, uncompiled: flex attention has no gradient on the CPU."""
    batch = random_batch(3, [5, 9, 1], [7, 1, 12, 3, 6, 8], [0, 0, 1, 1, 2, 2])
    (micro,) = plan(batch, torch.arange(6), 10_000)
    row = FlatRow(micro, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, len(micro.input_T), 16, generator=generator) for heads in (4, 2, 2)
    )
    by_branch = attend_by_branch(query, key, value, row, 0.25, window)
    assert not row.in_one_kernel and by_branch.shape == (1, len(micro.input_T), 4, 16)
    torch.testing.assert_close(
        attend_in_one_kernel(query, key, value, row, 0.25, window), by_branch, atol=1e-5, rtol=1e-5
    )
    if window:
        assert not torch.allclose(by_branch, attend_by_branch(query, key, value, row, 0.25, None))


# -------------------------------------------------------------------------------------------- plans


def test_a_row_by_hand():
    """Prompt 5 6 with responses 1 2 3 and 4: the prompt once, no last tokens, positions continue
    after the prompt.
    """
    (micro,) = plan(
        TokenBatch.build([[5, 6]], [[1, 2, 3], [4]], [0, 0], [1, 0]), torch.arange(2), 100
    )
    assert micro.sequences.tolist() == [0, 1]
    assert micro.input_T.tolist() == [5, 6, 1, 2]
    assert micro.position_T.tolist() == [0, 1, 2, 3]
    assert micro.predict_N.tolist() == [1, 2, 3, 1]
    assert micro.token_N.tolist() == [1, 2, 3, 4]


@settings(max_examples=100, deadline=None)
@given(batches(max_sequences=10), st.integers(1, 60), st.randoms())
def test_every_token_is_predicted_exactly_once_whatever_the_budget(batch, budget, random):
    chosen = torch.tensor(random.sample(range(batch.sequences), random.randint(1, batch.sequences)))
    micros = plan(batch, chosen, budget)
    assert sorted(s for micro in micros for s in micro.sequences.tolist()) == sorted(
        chosen.tolist()
    )
    for micro in micros:
        assert micro.token_N.tolist() == batch.token_N[batch.token_index(micro.sequences)].tolist()
        assert len(micro.predict_N) == len(micro.token_N)


@settings(max_examples=100, deadline=None)
@given(batches(max_sequences=10), st.integers(1, 60))
def test_the_budget_is_kept_except_by_a_single_too_long_sequence(batch, budget):
    for micro in plan(batch, torch.arange(batch.sequences), budget):
        if len(micro.input_T) > budget:
            (sequence,) = micro.sequences.tolist()
            assert (
                len(micro.input_T)
                == len(batch.prompts[int(batch.group_S[sequence])])
                + int(batch.length_S[sequence])
                - 1
            )


@settings(max_examples=100, deadline=None)
@given(batches(max_sequences=10))
def test_a_group_within_the_budget_stores_its_prompt_once(batch):
    """If each group fits into the budget, the rows contain each used prompt once, and each response
    without its last token.
    """
    sizes = {g: len(batch.prompts[g]) for g in batch.group_S.tolist()}
    for s in range(batch.sequences):
        sizes[int(batch.group_S[s])] += int(batch.length_S[s]) - 1
    micros = plan(batch, torch.arange(batch.sequences), max(sizes.values()))
    assert sum(len(micro.input_T) for micro in micros) == sum(sizes.values())
    row_of = {}
    for index, micro in enumerate(micros):
        for s in micro.sequences.tolist():
            assert row_of.setdefault(int(batch.group_S[s]), index) == index


def test_pieces_of_a_group_that_meet_in_one_row_share_its_prompt():
    """Budget 20, prompt 1, branches 10 10 9 8: the first piece (11) leaves space for the last (8),
    without storing the prompt again.
    """
    batch = random_batch(0, [1], [11, 11, 10, 9], [0, 0, 0, 0])
    stored = sum(len(micro.input_T) for micro in plan(batch, torch.arange(4), 20))
    assert stored == 10 + 10 + 9 + 8 + 2


@settings(max_examples=50, deadline=None)
@given(batches(max_sequences=10), st.integers(1, 60))
def test_buckets_attend_from_each_row_token_once_to_its_prompt_and_past_only(batch, budget):
    """Each token's keys in the branches, without padding, equal an independent walk over the
    row.
    """
    for micro in plan(batch, torch.arange(batch.sequences), budget):
        seen = {}
        for bucket in micro.buckets:
            width = bucket.query_BQ.shape[1]
            for index, row in zip(bucket.output_M.tolist(), bucket.row_M.tolist()):
                b, q = divmod(index, width)
                assert row not in seen
                assert bucket.query_BQ[b, q] == row
                seen[row] = sorted(bucket.key_BK[b][bucket.mask_BQK[b, q]].tolist())
        assert sorted(seen) == list(range(len(micro.input_T)))
        for row, keys in seen.items():
            assert micro.position_T[keys].tolist() == list(range(int(micro.position_T[row]) + 1))
            assert keys[-1] == row


@pytest.mark.parametrize("seed", range(5))
def test_padding_wastes_at_most_a_third_of_a_large_bucket(seed):
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(1, 200, (8,), generator=generator).tolist()
    responses = torch.randint(1, 300, (40,), generator=generator).tolist()
    batch = random_batch(
        seed, prompts, responses, torch.randint(8, (40,), generator=generator).tolist()
    )
    for micro in plan(batch, torch.arange(40), 100_000):
        for bucket in micro.buckets:
            count, width_q = bucket.query_BQ.shape
            width_k = bucket.key_BK.shape[1]
            if width_q * width_k > 64 * 64:
                lengths = [int((bucket.output_M // width_q == b).sum()) for b in range(count)]
                useful = sum(
                    q * int(bucket.mask_BQK[b, q - 1].sum()) for b, q in enumerate(lengths)
                )
                assert useful >= 2 / 3 * count * width_q * width_k
