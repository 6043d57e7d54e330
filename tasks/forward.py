"""How a transformers model is run on sequences: on flat rows that share prompts where it can, on padded rows where it cannot.

Whether it can is tried, not looked up: when a policy is opened both ways are run on a few tokens and must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

from erpd_core.attention import Row, shared_prefix_attention, shared_prefix_recurrence
from erpd_core.batch import TokenBatch
from erpd_core.layout import MicroBatch, plan
from erpd_core.padded import PaddedBatch, plan_padded

SHARED = "erpd_shared"
AttentionInterface.register(SHARED, shared_prefix_attention)

MIXERS = {"full_attention": None, "sliding_attention": None, "linear_attention": "linear_attn"}
"""Kind of layer -> the module in it whose state goes from token to token; None where the attention interface is all there is."""


class Rows(Protocol):
    """A layout, and the model's forward on it."""

    def plan(self, batch: TokenBatch, sequences: Tensor, token_budget: int) -> Sequence[Any]:
        """Micro-batches of at most `token_budget` input tokens, where a single sequence is not longer."""

    def hidden(self, model: Any, micro: Any) -> Tensor:
        """[N, H] final hidden states that predict the micro-batch's response tokens."""

    @contextmanager
    def off(self, model: Any) -> Iterator[None]:
        """Within it the model is as it was loaded."""


class PaddedRows:
    """A row a sequence; the model as it was loaded."""

    def plan(self, batch: TokenBatch, sequences: Tensor, token_budget: int) -> list[PaddedBatch]:
        return plan_padded(batch, sequences, token_budget)

    def hidden(self, model: Any, micro: PaddedBatch) -> Tensor:
        out = model.base_model(input_ids=micro.input_SL.to(model.device), use_cache=False)
        hidden: Tensor = out.last_hidden_state.flatten(0, 1).index_select(0, micro.predict_N.to(model.device))
        return hidden

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

    def hidden(self, model: Any, micro: MicroBatch) -> Tensor:
        device = model.device
        out = model.base_model(
            input_ids=micro.input_T[None].to(device),
            position_ids=micro.position_T[None].to(device),
            attention_mask=dict.fromkeys(self._kinds) if self._kinds else None,
            use_cache=False,
            row=Row(micro, device),
        )
        hidden: Tensor = out.last_hidden_state[0].index_select(0, micro.predict_N.to(device))
        return hidden

    @contextmanager
    def off(self, model: Any) -> Iterator[None]:
        model.set_attn_implementation(self._own_attention)
        try:
            yield
        finally:
            model.set_attn_implementation(SHARED)


def choose_rows(model: Any) -> tuple[Rows, str | None]:
    """Shared rows, or padded ones with the reason why.

    Raises ValueError for a model whose logits are not its output head by its hidden states (capped or scaled ones).
    """
    padded, own = PaddedRows(), model.config._attn_implementation
    batch = _trial(model.config.get_text_config().vocab_size)
    with torch.no_grad():
        wanted_N = _hidden(padded, model, batch)
        _require_plain_head(model, batch, wanted_N)
        try:
            shared = SharedRows(model)
            found_N = _hidden(shared, model, batch)
            apart = float((found_N - wanted_N).float().norm() / wanted_N.float().norm())
            if not apart < torch.finfo(wanted_N.dtype).eps ** 0.5:
                raise NotImplementedError(f"its hidden states there are {apart:.1g} away from those of padded rows")
        except Exception as error:  # whatever it is: the model cannot, and runs as it was loaded
            model.set_attn_implementation(own)
            return padded, f"{type(model).__name__} cannot share prompts between samples ({error}); padded rows are slower and as exact"
    return shared, None


def _require_plain_head(model: Any, batch: TokenBatch, hidden_NH: Tensor) -> None:
    told_V = model(torch.cat([batch.prompts[0], batch.response(0)])[None, :-1].to(model.device), use_cache=False).logits[0, -1].float()
    ours_V = (hidden_NH[int(batch.length_S[0]) - 1] @ model.get_output_embeddings().weight.T).float()
    apart = float((told_V - ours_V).norm() / ours_V.norm())
    if not apart < torch.finfo(hidden_NH.dtype).eps ** 0.5:
        raise ValueError(
            f"{type(model).__name__}: its logits are not its output head by its hidden states ({apart:.1g} away), as with capped or scaled "
            "logits or a head with a bias; log-probs of it would be wrong, so it cannot be trained here"
        )


def _hidden(rows: Rows, model: Any, batch: TokenBatch) -> Tensor:
    """In the batch's own order."""
    (micro,) = rows.plan(batch, torch.arange(batch.sequences), 10**6)
    return rows.hidden(model, micro)[batch.token_index(micro.sequences).argsort()]


def _trial(vocabulary: int) -> TokenBatch:
    """Two prompts, each with two responses of unlike length, long enough for a short convolution or window to matter."""
    token = iter(range(1, 10**6))

    def tokens(count: int) -> list[int]:
        return [next(token) * 7919 % vocabulary for _ in range(count)]

    return TokenBatch.build([tokens(9), tokens(4)], [tokens(count) for count in (8, 3, 6, 7)], [0, 0, 1, 1], [1, 0, 1, 0])


def _recurrence(forward: Callable[..., Tensor], hidden_states: Tensor, row: Row | None = None, **others: Any) -> Tensor:
    if row is None:  # an engine samples these very weights
        return forward(hidden_states, **others)
    return shared_prefix_recurrence(lambda written: forward(written, **others), hidden_states, row)
