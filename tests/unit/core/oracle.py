"""Reference implementation of every loss from the SPEC's formulas.

It loops over sequences and tokens in Python and shares no code with erpd_core.

`rows[s]` lists the tokens of sequence s as (lp, old, signal, entropy) tensors; `rewards[s]` is its
outcome.
"""

import math

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
    return mean(
        [
            mean([clipped(lp, old, a, c.clip_low, c.clip_high) for lp, old, a, _ in row])
            for row in rows
        ]
    )


def sapo(c, rows, rewards):
    return mean(
        [mean([soft(lp, old, a, c.tau_pos, c.tau_neg) for lp, old, a, _ in row]) for row in rows]
    )


def distill(c, rows, rewards):
    return mean(
        [clipped(lp, old, a, c.clip_low, c.clip_high) for row in rows for lp, old, a, _ in row]
    )


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


def held_ratio(lp, old):
    """The ratio as a plain number, without a gradient."""
    return math.exp((lp - old).item())


def reinforce(c, rows, rewards):
    return mean([-a * lp for row in rows for lp, _, a, _ in row])


def cispo(c, rows, rewards):
    return mean(
        [-min(held_ratio(lp, old), c.max_weight) * a * lp for row in rows for lp, old, a, _ in row]
    )


def dispo(c, rows, rewards):
    losses = []
    for row, label in zip(rows, rewards):
        low, high = (c.right_low, c.right_high) if label == 1 else (c.wrong_low, c.wrong_high)
        losses += [
            -min(max(held_ratio(lp, old), 1 - low), 1 + high) * a * lp for lp, old, a, _ in row
        ]
    return mean(losses)


def gamma(weight, k, lam):
    return weight**k * math.exp(lam) / math.exp(lam * weight)


def vespo(c, rows, rewards):
    losses = []
    for row in rows:
        weight = math.prod(held_ratio(lp, old) for lp, old, _, _ in row)
        for lp, _, a, _ in row:
            losses.append(
                -gamma(weight, *((c.k_pos, c.lambda_pos) if a >= 0 else (c.k_neg, c.lambda_neg)))
                * a
                * lp
            )
    return mean(losses)


ORACLE = {
    "grpo": grpo,
    "sapo": sapo,
    "ce": ce,
    "mse": mse,
    "sft": sft,
    "distill": distill,
    "ppo": distill,
    "reinforce": reinforce,
    "cispo": cispo,
    "dispo": dispo,
    "vespo": vespo,
}


def weight_integral(log_ratio, low, high):
    """The integral of clip(exp(x), low, high) up to `log_ratio`, up to a constant."""
    if math.exp(log_ratio) > high:
        return high + high * (log_ratio - math.log(high))
    if math.exp(log_ratio) < low:
        return low + low * (log_ratio - math.log(low))
    return math.exp(log_ratio)


def potential(c, rows, rewards):
    """A function whose ordinary gradient in lp equals that of a stop-gradient loss.

    For VESPO, A must be constant on each response.
    """
    total = 0.0
    for row, label in zip(rows, rewards):
        if c.kind == "vespo":
            k, lam = (c.k_pos, c.lambda_pos) if row[0][2] >= 0 else (c.k_neg, c.lambda_neg)
            end, parts = sum(float(lp - old) for lp, old, _, _ in row), 400  # Simpson's rule
            heights = [gamma(math.exp(end * i / parts), k, lam) for i in range(parts + 1)]
            simpson = heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2])
            total -= float(row[0][2]) * simpson * end / parts / 3
            continue
        if c.kind == "cispo":
            low, high = 0.0, c.max_weight
        else:
            low, high = (
                (1 - c.right_low, 1 + c.right_high)
                if label == 1
                else (1 - c.wrong_low, 1 + c.wrong_high)
            )
        total -= sum(
            float(a) * weight_integral(float(lp - old), low, high) for lp, old, a, _ in row
        )
    return total / sum(len(row) for row in rows)


def policy_loss(c, rows, rewards):
    tokens = [token for row in rows for token in row]
    penalty = mean([0.5 * (lp - old) ** 2 for lp, old, _, _ in tokens])
    bonus = mean([entropy for *_, entropy in tokens])
    return ORACLE[c.kind](c, rows, rewards) + c.kl_weight * penalty - c.entropy_weight * bonus


def rows_of(lp_N, old_N, signal_N, entropy_N, lengths):
    """Convert flat columns to one row of tokens per response."""
    tokens = list(zip(lp_N, old_N, signal_N, entropy_N))
    rows, start = [], 0
    for length in lengths:
        rows.append(tokens[start : start + length])
        start += length
    return rows
