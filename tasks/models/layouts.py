"""How a transformers model is run on sequences: on flat rows that share prompts where it can, on
padded rows where it cannot.

Whether it can is tried, not looked up: when a policy is opened both ways are run on a few tokens
and must agree.
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
from tasks.models.hf import AttentionInterface

SHARED = "erpd_shared"
AttentionInterface.register(SHARED, shared_prefix_attention)

MIXERS = {"full_attention": None, "sliding_attention": None, "linear_attention": "linear_attn"}
"""Kind of layer -> the module in it whose state goes from token to token; None where the
attention interface is all there is.
"""


class Layout(Protocol):
    """A layout, and what the model's body is given of it."""

    def plan(self, batch: TokenBatch, sequences: Tensor, token_budget: int) -> Sequence[Any]:
        """Micro-batches of at most `token_budget` input tokens, where a single sequence is not
        longer.
        """

    def inputs(self, micro: Any, device: torch.device) -> dict[str, Any]:
        """Arguments of the body; `predict_N` of the micro-batch are positions in its flattened
        states.
        """

    @contextmanager
    def off(self, model: Any) -> Iterator[None]:
        """Within it the model is as it was loaded."""


class PaddedRows:
    """A row a sequence; the model as it was loaded."""

    def plan(self, batch: TokenBatch, sequences: Tensor, token_budget: int) -> list[PaddedBatch]:
        return plan_padded(batch, sequences, token_budget)

    def inputs(self, micro: PaddedBatch, device: torch.device) -> dict[str, Any]:
        return {"input_ids": micro.input_SL.to(device)}

    @contextmanager
    def off(self, model: Any) -> Iterator[None]:
        yield


class SharedRows:
    """Flat rows, each prompt once (`erpd_core.layout`).

    Raises NotImplementedError for a model with layers of a kind not known here.
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
    """Shared rows, or padded ones with the reason why. `body` gives the model's final hidden states
    [B, L, H]; of one that is sharded every worker makes the same call.
    """
    padded, own = PaddedRows(), model.config._attn_implementation
    batch = _trial(model.config.get_text_config().vocab_size)
    wanted_NH = _states(padded, body, batch, device)
    try:
        shared = SharedRows(model)
        found_NH = _states(shared, body, batch, device)
        if bool(wanted_NH.isfinite().all()) and not (
            apart := _apart(found_NH, wanted_NH)
        ) < _allowed(wanted_NH.dtype):
            raise NotImplementedError(
                f"its hidden states there are {apart:.1g} away from those of padded rows"
            )
    except Exception as error:  # whatever it is: the model cannot, and runs as it was loaded
        model.set_attn_implementation(own)
        return (
            padded,
            f"{type(model).__name__} cannot share prompts between samples ({error}); padded rows "
            f"are slower and as exact",
        )
    return shared, None


@torch.no_grad()
def require_plain_head(model: Any) -> None:
    """Raises ValueError for a model whose logits are not its output head by its hidden states
    (capped or scaled ones).
    """
    batch = _trial(model.config.get_text_config().vocab_size)
    ids_SL = torch.cat([batch.prompts[0], batch.response(0)])[None].to(model.device)
    told_LV = model(ids_SL, use_cache=False).logits[0]
    states_LH = model.base_model(ids_SL, use_cache=False).last_hidden_state[0]
    apart = _apart(states_LH @ model.get_output_embeddings().weight.T, told_LV)
    # of weights that are not finite nothing can be said, and whoever uses them will say so
    if apart >= _allowed(states_LH.dtype):
        raise ValueError(
            f"{type(model).__name__}: its logits are not its output head by its hidden states "
            f"({apart:.1g} away), as with capped or scaled "
            "logits or a head with a bias; log-probs of it would be wrong, so it cannot be "
            "trained here"
        )


def _states(
    rows: Layout, body: Callable[..., Tensor], batch: TokenBatch, device: torch.device
) -> Tensor:
    """[N, H], in the batch's own order."""
    (micro,) = rows.plan(batch, torch.arange(batch.sequences), 10**6)
    states = body(**rows.inputs(micro, device)).flatten(0, 1)[micro.predict_N.to(device)]
    return states[batch.token_index(micro.sequences).argsort().to(device)]


def _apart(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).float().norm() / wanted.float().norm())


def _allowed(dtype: torch.dtype) -> float:
    """What rounding may make of the same numbers, and no mistake does."""
    return float(torch.finfo(dtype).eps) ** 0.5


def _trial(vocabulary: int) -> TokenBatch:
    """Two prompts, each with two responses of unlike length, long enough for a short convolution
    or window to matter.
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
    if row is None:  # an engine samples these very weights
        return forward(hidden_states, **others)
    return shared_prefix_recurrence(lambda written: forward(written, **others), hidden_states, row)
