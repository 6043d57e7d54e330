"""Counted work: what a model must do at least, however it is laid out."""

from __future__ import annotations

from typing import Any

from erpd_core.batch import TokenBatch


def least_forward_flops(config: Any, batch: TokenBatch) -> float:
    """Matrix FLOPs of one forward that runs each prompt once, each response but its last token, and the head on response positions only."""
    head = config.hidden_size // config.num_attention_heads if getattr(config, "head_dim", None) is None else config.head_dim
    attention = config.hidden_size * head * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    weights = config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size)
    responses = batch.length_S - 1
    prompts = [len(prompt) for prompt in batch.prompts]
    tokens = sum(prompts) + int(responses.sum())
    pairs = sum(length * (length + 1) / 2 for length in prompts)
    for group, own in zip(batch.group_S.tolist(), responses.tolist(), strict=True):
        pairs += own * (own + 1) / 2 + own * prompts[group]
    scores = config.num_hidden_layers * 2 * config.num_attention_heads * head * pairs  # query x key, and weights x value
    return 2.0 * (weights * tokens + scores + config.hidden_size * config.vocab_size * batch.tokens)


def least_training_flops(config: Any, batch: TokenBatch) -> float:
    """Forward and backward: three times the forward's."""
    return 3 * least_forward_flops(config, batch)
