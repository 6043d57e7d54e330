"""Attention over the branches of a flat row (`erpd_core.layout`), in the signature of transformers' attention interface."""

from __future__ import annotations

from collections.abc import Sequence
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
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each branch of the row.

    **Arguments:** `query` [1, heads, T, D]; `key`, `value` [1, kv heads, T, D]; `buckets` the branches. `attention_mask` is not used: the
    branches say who sees whom. **Returns:** ([1, T, heads, D], None).
    """
    heads, width = query.shape[1], query.shape[2]
    q_T, k_T, v_T = (x[0].transpose(0, 1) for x in (query, key, value))
    out_T = query.new_zeros(width, heads, value.shape[-1])
    for bucket in buckets:
        attended = scaled_dot_product_attention(
            _rows(q_T, bucket.query_BQ),
            _rows(k_T, bucket.key_BK),
            _rows(v_T, bucket.key_BK),
            attn_mask=bucket.mask_BQK[:, None],
            scale=scaling,
            enable_gqa=heads != key.shape[1],
        )
        flat = attended.transpose(1, 2).flatten(0, 1)
        out_T = out_T.index_copy(0, bucket.row_M, flat[bucket.output_M])
    return out_T[None], None


def _rows(x_T: Tensor, index_BL: Tensor) -> Tensor:
    """[B, heads, L, D] of rows [T, heads, D]. index_select, since the gradient of plain indexing adds up in no fixed order on the CPU."""
    return x_T.index_select(0, index_BL.flatten()).unflatten(0, index_BL.shape).transpose(1, 2)
