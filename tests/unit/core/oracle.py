"""Every loss again, from the SPEC's formulas: padded rows, Python loops over sequences and tokens, no code shared with erpd_core.

`rows[s]` lists the tokens of sequence s as (lp, old, signal, entropy) tensors; `rewards[s]` is its outcome.
"""

import torch


def clipped(lp, old, signal, low, high):
    ratio = torch.exp(lp - old)
    if ratio < 1 - low:
        cut = torch.full_like(ratio, 1 - low)
    elif ratio > 1 + high:
        cut = torch.full_like(ratio, 1 + high)
    else:
        cut = ratio
    return -signal * ratio if (signal * ratio) <= (signal * cut) else -signal * cut


def soft(lp, old, signal, tau_pos, tau_neg):
    tau = tau_pos if signal > 0 else tau_neg
    return -signal * (4 / tau) / (1 + torch.exp(-tau * (torch.exp(lp - old) - 1)))


def mean(values):
    return sum(values) / len(values)


def grpo(c, rows, rewards):
    return mean([mean([clipped(lp, old, a, c.clip_low, c.clip_high) for lp, old, a, _ in row]) for row in rows])


def sapo(c, rows, rewards):
    return mean([mean([soft(lp, old, a, c.tau_pos, c.tau_neg) for lp, old, a, _ in row]) for row in rows])


def distill(c, rows, rewards):
    return mean([clipped(lp, old, a, c.clip_low, c.clip_high) for row in rows for lp, old, a, _ in row])


def ce(c, rows, rewards):
    losses = []
    for row, label in zip(rows, rewards):
        implicit = c.beta * sum(lp - old for lp, old, _, _ in row)
        if c.aggregate == "mean":
            implicit = implicit / len(row)
        probability = 1 / (1 + torch.exp(-implicit))
        losses.append(-torch.log(probability) if label == 1 else -torch.log(1 - probability))
    return mean(losses)


def mse(c, rows, rewards):
    errors = []
    for row, label in zip(rows, rewards):
        weight = 1.0 if label == 1 else c.negative_weight
        errors += [weight * (torch.exp(lp) - label) ** 2 for lp, *_ in row]
    return mean(errors)


def sft(c, rows, rewards):
    return mean([-lp for row, label in zip(rows, rewards) if label == 1 for lp, *_ in row])


ORACLE = {"grpo": grpo, "sapo": sapo, "ce": ce, "mse": mse, "sft": sft, "distill": distill}


def policy_loss(c, rows, rewards):
    tokens = [token for row in rows for token in row]
    penalty = mean([0.5 * (lp - old) ** 2 for lp, old, _, _ in tokens])
    bonus = mean([entropy for *_, entropy in tokens])
    return ORACLE[c.kind](c, rows, rewards) + c.kl_weight * penalty - c.entropy_weight * bonus


def rows_of(lp_N, old_N, signal_N, entropy_N, lengths):
    """Flat columns to rows of tokens."""
    tokens = list(zip(lp_N, old_N, signal_N, entropy_N))
    rows, start = [], 0
    for length in lengths:
        rows.append(tokens[start : start + length])
        start += length
    return rows
