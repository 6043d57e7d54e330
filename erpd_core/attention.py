"""Layers over the branches of a flat row (`erpd_core.layout`): attention, in the signature of transformers' interface, and recurrences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from erpd_core.layout import AttentionBucket


def shared_prefix_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    buckets: Sequence[AttentionBucket],
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each branch of the row.

    **Arguments:** `query` [1, heads, T, D]; `key`, `value` [1, kv heads, T, D]; `buckets` the branches; `sliding_window` how many tokens a
    query sees, itself the last. `attention_mask` is not used: the branches say who sees whom. **Returns:** ([1, T, heads, D], None).
    Raises NotImplementedError for soft-capped scores (`softcap`) and attention sinks (`s_aux`).
    """
    if softcap is not None or s_aux is not None:
        raise NotImplementedError("soft-capped scores and attention sinks are not known to the shared-prompt layout")
    heads, width = query.shape[1], query.shape[2]
    q_T, k_T, v_T = (x[0].transpose(0, 1) for x in (query, key, value))
    out_T = query.new_zeros(width, heads, value.shape[-1])
    for bucket in buckets:
        mask_BQK = bucket.mask_BQK
        if sliding_window is not None:
            back_BQK = _last_seen(mask_BQK)[..., None] - torch.arange(mask_BQK.shape[2], device=mask_BQK.device)
            mask_BQK = mask_BQK & (back_BQK < sliding_window)
        attended = scaled_dot_product_attention(
            _rows(q_T, bucket.query_BQ).transpose(1, 2),
            _rows(k_T, bucket.key_BK).transpose(1, 2),
            _rows(v_T, bucket.key_BK).transpose(1, 2),
            attn_mask=mask_BQK[:, None],
            scale=scaling,
            enable_gqa=heads != key.shape[1],
        )
        flat = attended.transpose(1, 2).flatten(0, 1)
        out_T = out_T.index_copy(0, bucket.row_M, flat[bucket.output_M])
    return out_T[None], None


def shared_prefix_recurrence(layer: Callable[[Tensor], Tensor], hidden: Tensor, buckets: Sequence[AttentionBucket]) -> Tensor:
    """A layer with a state that goes from token to token (linear attention, a short convolution) on every branch of the row.

    Each branch is written out with its prompt before it, since a state cannot be shared as keys are; padding comes after, where nothing
    looks back at it. **Arguments:** `layer` [B, L, H] -> [B, L, H], causal; `hidden` [1, T, H]. **Returns:** [1, T, H].
    """
    out_TH = torch.zeros_like(hidden[0])
    for bucket in buckets:
        written_BKH = layer(_rows(hidden[0], bucket.key_BK))
        own_BQ = _last_seen(bucket.mask_BQK)
        row = torch.arange(len(own_BQ), device=own_BQ.device)[:, None] * written_BKH.shape[1]
        index_M = (row + own_BQ).flatten()[bucket.output_M]
        out_TH = out_TH.index_copy(0, bucket.row_M, written_BKH.flatten(0, 1).index_select(0, index_M))
    return out_TH[None]


def _last_seen(mask_BQK: Tensor) -> Tensor:
    """[B, Q] which of its branch's keys each query is itself: it sees all before, and none after."""
    return mask_BQK.sum(-1) - 1


def _rows(x_T: Tensor, index_BL: Tensor) -> Tensor:
    """[B, L, ...] of rows [T, ...]. index_select, since the gradient of plain indexing adds up in no fixed order on the CPU."""
    return x_T.index_select(0, index_BL.flatten()).unflatten(0, index_BL.shape)
