"""Helpers for tests of the maths: small batches, double-precision loss inputs, a tiny policy."""

import torch
from hypothesis import strategies as st
from torch import nn

from erpd_core.batch import TokenBatch
from erpd_core.layout import plan
from erpd_core.losses import LossInputs, Totals


def totals_of(length_S, reward_S):
    return Totals(int(length_S.sum()), len(length_S), int(length_S[reward_S > 0.5].sum()))


def loss_inputs(lp, old, signal, rewards, lengths, entropy=None, totals=None):
    """`LossInputs` from plain lists or tensors, in double precision."""
    lp_N, old_N, signal_N = (torch.as_tensor(x, dtype=torch.float64) for x in (lp, old, signal))
    reward_S = torch.as_tensor(rewards, dtype=torch.float64)
    length_S = torch.as_tensor(lengths)
    return LossInputs(
        lp_N=lp_N,
        old_N=old_N,
        signal_N=signal_N,
        entropy_N=torch.zeros_like(lp_N)
        if entropy is None
        else torch.as_tensor(entropy, dtype=torch.float64),
        reward_S=reward_S,
        seq_N=torch.repeat_interleave(torch.arange(len(length_S)), length_S),
        length_S=length_S,
        totals=totals or totals_of(length_S, reward_S),
    )


def part_of(x, sequences):
    """The micro-batch of `sequences` of `x`, with the totals of the whole minibatch."""
    keep_N = torch.cat([(x.seq_N == s).nonzero().squeeze(1) for s in sequences])
    return LossInputs(
        lp_N=x.lp_N[keep_N],
        old_N=x.old_N[keep_N],
        signal_N=x.signal_N[keep_N],
        entropy_N=x.entropy_N[keep_N],
        reward_S=x.reward_S[sequences],
        seq_N=torch.repeat_interleave(torch.arange(len(sequences)), x.length_S[sequences]),
        length_S=x.length_S[sequences],
        totals=x.totals,
    )


def random_inputs(seed, lengths=(3, 1, 5, 2), rewards=(1, 0, 0, 1), spread=0.6):
    """Random log-probs around old ones; signals of both signs within each response."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    old = -3 * torch.rand(n, generator=generator, dtype=torch.float64) - 0.2
    lp = old + spread * torch.randn(n, generator=generator, dtype=torch.float64)
    signal = torch.randn(n, generator=generator, dtype=torch.float64)
    entropy = torch.rand(n, generator=generator, dtype=torch.float64)
    return loss_inputs(lp.clamp(max=-0.01), old, signal, rewards, lengths, entropy)


def random_batch(seed, prompt_lengths, response_lengths, groups, vocab=16):
    generator = torch.Generator().manual_seed(seed)

    def tokens(count):
        return torch.randint(vocab, (count,), generator=generator).tolist()

    rewards = torch.randint(2, (len(groups),), generator=generator).tolist()
    return TokenBatch.build(
        [tokens(n) for n in prompt_lengths], [tokens(n) for n in response_lengths], groups, rewards
    )


@st.composite
def batches(draw, max_prompt=7, max_response=9, max_groups=3, max_sequences=6):
    """Random batches. Groups have any number of samples, in any order."""
    prompts = draw(st.lists(st.integers(1, max_prompt), min_size=1, max_size=max_groups))
    responses = draw(st.lists(st.integers(1, max_response), min_size=1, max_size=max_sequences))
    groups = draw(
        st.lists(st.integers(0, len(prompts) - 1), min_size=len(responses), max_size=len(responses))
    )
    return random_batch(draw(st.integers(0, 999)), prompts, responses, groups)


class BigramPolicy:
    """A minimal `PolicyModel`: the next token depends on the current one and its position."""

    def __init__(self, vocab=6, width=8, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(0.5 * torch.randn(vocab, width, generator=generator))
        self.output = nn.Parameter(0.5 * torch.randn(vocab, width, generator=generator))

    def plan(self, batch, sequences, token_budget):
        return plan(batch, sequences, token_budget)

    def hidden(self, micro):
        here_TH = torch.tanh(self.table[micro.input_T] + 0.1 * micro.position_T[:, None])
        return here_TH[micro.predict_N]

    def head(self):
        return self.output

    def parameters(self):
        return [self.table, self.output]

    def state(self):
        return [p.detach().clone() for p in self.parameters()]


def naive_scores(policy, batch):
    """Log-prob and entropy of every response token under a `BigramPolicy`, token by token."""
    lp, entropy = [], []
    for s in range(batch.sequences):
        prompt, response = batch.prompts[int(batch.group_S[s])], batch.response(s)
        row = torch.cat([prompt, response])
        for t in range(len(response)):
            position = len(prompt) + t - 1
            logits = policy.output @ torch.tanh(policy.table[row[position]] + 0.1 * position)
            distribution = torch.distributions.Categorical(logits=logits)
            lp.append(distribution.log_prob(response[t]))
            entropy.append(distribution.entropy())
    return torch.stack(lp), torch.stack(entropy)
