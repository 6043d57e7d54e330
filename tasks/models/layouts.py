"""Layouts that run a transformers model on sequences: flat rows with shared prompts, or padded.

Flat rows are used where the model supports them. This is tried, not looked up: when a policy is
opened, both layouts are run on a few tokens and must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from erpd_core.attention import FlatRow, shared_prefix_attention, shared_prefix_recurrence
from erpd_core.batch import TokenBatch
from erpd_core.layout import MicroBatch, plan
from erpd_core.padded import PaddedBatch, plan_padded

SHARED = "erpd_shared"
"""Name under which transformers knows our attention."""

MIXERS = {"full_attention": None, "sliding_attention": None, "linear_attention": "linear_attn"}
"""Kind of layer -> the module in it that carries state from token to token.

None if the layer passes state only through the attention interface.
"""


class Layout(Protocol):
    """Packs sequences into micro-batches and prepares the arguments of the model's body."""

    def plan(self, batch: TokenBatch, sequences: Tensor, token_budget: int) -> Sequence[Any]:
        """Micro-batches of at most `token_budget` input tokens, or of one longer sequence."""

    def inputs(self, micro: Any, device: torch.device) -> dict[str, Any]:
        """Arguments of the body.

        `predict_N` of the micro-batch are positions in the body's flattened states.
        """

    @contextmanager
    def off(self, model: Any) -> Iterator[None]:
        """Within this context the model is as it was loaded."""


class PaddedRows:
    """One row per sequence; the model stays as it was loaded."""

    def plan(self, batch: TokenBatch, sequences: Tensor, token_budget: int) -> list[PaddedBatch]:
        return plan_padded(batch, sequences, token_budget)

    def inputs(self, micro: PaddedBatch, device: torch.device) -> dict[str, Any]:
        return {"input_ids": micro.input_SL.to(device)}

    @contextmanager
    def off(self, model: Any) -> Iterator[None]:
        yield


class SharedRows:
    """Flat rows that hold each prompt once (`erpd_core.layout`).

    **Raises:** NotImplementedError for a model with layers of an unknown kind.
    """

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        self._kinds = list(dict.fromkeys(getattr(config, "layer_types", None) or []))
        if unknown := [kind for kind in self._kinds if kind not in MIXERS]:
            raise NotImplementedError(f"layers of kind {', '.join(unknown)}")
        self._own_attention = model.config._attn_implementation
        mixers = {MIXERS[kind] for kind in self._kinds} - {None}
        for name, module in model.named_modules():
            if name.rpartition(".")[2] in mixers:
                module.forward = partial(_recurrence, module.forward)
        from tasks.models.hf import AttentionInterface  # slow to import

        AttentionInterface.register(SHARED, shared_prefix_attention)
        model.set_attn_implementation(SHARED)

    def plan(self, batch: TokenBatch, sequences: Tensor, token_budget: int) -> list[MicroBatch]:
        return plan(batch, sequences, token_budget)

    def inputs(self, micro: MicroBatch, device: torch.device) -> dict[str, Any]:
        return {
            "input_ids": micro.input_T[None].to(device),
            "position_ids": micro.position_T[None].to(device),
            "attention_mask": dict.fromkeys(self._kinds) if self._kinds else None,
            "row": FlatRow(micro, device),
        }

    @contextmanager
    def off(self, model: Any) -> Iterator[None]:
        model.set_attn_implementation(self._own_attention)
        try:
            yield
        finally:
            model.set_attn_implementation(SHARED)


@torch.no_grad()
def choose_rows(
    model: Any, body: Callable[..., Tensor], device: torch.device
) -> tuple[Layout, str | None]:
    """Choose shared rows if the model supports them, else padded rows.

    If the model is sharded, every worker must make the same call.

    **Arguments:**
        body: Returns the model's final hidden states, [B, L, H].
    **Returns:** The layout, and the reason for padded rows (None for shared rows).
    """
    padded, own = PaddedRows(), model.config._attn_implementation
    batch = _trial(model.config.get_text_config().vocab_size)
    padded_NH = _states(padded, body, batch, device)
    try:
        shared = SharedRows(model)
        shared_NH = _states(shared, body, batch, device)
        if bool(padded_NH.isfinite().all()) and not (
            distance := _distance(shared_NH, padded_NH)
        ) < _tolerance(padded_NH.dtype):
            raise NotImplementedError(
                f"its hidden states there are {distance:.1g} away from those of padded rows"
            )
    except Exception as error:  # whatever the error, the model can run as it was loaded
        model.set_attn_implementation(own)
        return (
            padded,
            f"{type(model).__name__} cannot share prompts between samples ({error}); padded rows "
            f"are slower but just as exact",
        )
    return shared, None


@torch.no_grad()
def require_plain_head(model: Any) -> None:
    """Refuse a model whose logits are not hidden states times output head, by a ValueError.

    That is so for capped or scaled logits.
    """
    batch = _trial(model.config.get_text_config().vocab_size)
    ids_SL = torch.cat([batch.prompts[0], batch.response(0)])[None].to(model.device)
    logits_LV = model(ids_SL, use_cache=False).logits[0]
    states_LH = model.base_model(ids_SL, use_cache=False).last_hidden_state[0]
    distance = _distance(states_LH @ model.get_output_embeddings().weight.T, logits_LV)
    # weights that are not finite pass: whatever uses them reports it
    if distance >= _tolerance(states_LH.dtype):
        raise ValueError(
            f"{type(model).__name__}: its logits are not its hidden states times its output head "
            f"({distance:.1g} away), as with capped or scaled "
            "logits or a head with a bias; its log-probs would be wrong, so it cannot be "
            "trained here"
        )


def _states(
    rows: Layout, body: Callable[..., Tensor], batch: TokenBatch, device: torch.device
) -> Tensor:
    """Final hidden states, [N, H], in the batch's own order."""
    (micro,) = rows.plan(batch, torch.arange(batch.sequences), 10**6)
    states = body(**rows.inputs(micro, device)).flatten(0, 1)[micro.predict_N.to(device)]
    return states[batch.token_index(micro.sequences).argsort().to(device)]


def _distance(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to the norm of `expected`."""
    return float((actual - expected).float().norm() / expected.float().norm())


def _tolerance(dtype: torch.dtype) -> float:
    """Largest relative distance that rounding can cause; mistakes cause larger ones."""
    return float(torch.finfo(dtype).eps) ** 0.5


def _trial(vocabulary: int) -> TokenBatch:
    """A batch to try layouts on: two prompts, each with two responses of different lengths.

    They are long enough for a short convolution or window to matter.
    """
    token = iter(range(1, 10**6))

    def tokens(count: int) -> list[int]:
        return [next(token) * 7919 % vocabulary for _ in range(count)]

    return TokenBatch.build(
        [tokens(9), tokens(4)],
        [tokens(count) for count in (8, 3, 6, 7)],
        [0, 0, 1, 1],
        [1, 0, 1, 0],
    )


def _recurrence(
    forward: Callable[..., Tensor], hidden_states: Tensor, row: FlatRow | None = None, **others: Any
) -> Tensor:
    if row is None:  # an engine samples from the same weights
        return forward(hidden_states, **others)
    return shared_prefix_recurrence(lambda written: forward(written, **others), hidden_states, row)
