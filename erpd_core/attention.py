"""Attention and recurrences over the branches of a flat row (`erpd_core.layout`).

Attention has the signature of transformers' attention interface. On a CPU, where arithmetic is the
cost, it runs branch by branch. On CUDA with Triton, where kernel launches and the memory of masks
are the cost, it runs as one block-sparse kernel over the row (torch's flex attention).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from erpd_core.layout import AttentionBucket, MicroBatch


class FlatRow:
    """The branches of a micro-batch, on the device of the model.

    Buckets and masks are made on first use, so only those of the attention method in use exist.
    """

    def __init__(self, micro: MicroBatch, device: torch.device) -> None:
        self.device = device
        self._micro = micro
        self._masks: dict[int | None, BlockMask] = {}

    @property
    def in_one_kernel(self) -> bool:
        """Whether attention runs as one kernel over the row, rather than branch by branch."""
        return self.device.type == "cuda" and find_spec("triton") is not None

    @cached_property
    def buckets(self) -> tuple[AttentionBucket, ...]:
        return tuple(bucket.to(self.device) for bucket in self._micro.buckets)

    def block_mask(self, window: int | None) -> BlockMask:
        """The attention mask over the whole row.

        A query sees itself and earlier tokens of its own branch and of that branch's prompt; with
        a `window`, only the last `window` of them.
        """
        if window not in self._masks:
            branch_T, prompt_T, position_T = self._tokens

            def sees(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
                seen = (k <= q) & ((branch_T[k] == branch_T[q]) | (branch_T[k] == prompt_T[q]))
                return seen if window is None else seen & (position_T[q] - position_T[k] < window)

            length = len(branch_T)
            make: Callable[..., BlockMask] = (
                _compiled_mask() if self.device.type == "cuda" else create_block_mask
            )
            self._masks[window] = make(sees, None, None, length, length, device=str(self.device))
        return self._masks[window]

    @cached_property
    def _tokens(self) -> tuple[Tensor, Tensor, Tensor]:
        """Per token of the row: index of its branch, index of its prompt's branch, position.

        For a prompt's own tokens both indices are the same.
        """
        branches = self._micro.branches
        at = {branch.start: index for index, branch in enumerate(branches)}
        lengths = torch.tensor([branch.length for branch in branches])
        ids = torch.tensor(
            [(index, at[branch.prompt_start]) for index, branch in enumerate(branches)]
        )
        branch_T, prompt_T = torch.repeat_interleave(ids, lengths, dim=0).to(self.device).unbind(1)
        return branch_T, prompt_T, self._micro.position_T.to(self.device)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row: FlatRow,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within each branch of the row.

    **Arguments:**
        query: [1, heads, T, D].
        key, value: [1, kv heads, T, D].
        attention_mask: Unused; the branches define which keys a query sees.
        row: The branches.
        sliding_window: Number of tokens that a query sees, itself included; None for all.
    **Returns:** ([1, T, heads, D], None).
    **Raises:** NotImplementedError for soft-capped scores (`softcap`) or attention sinks (`s_aux`).
    """
    if softcap is not None or s_aux is not None:
        raise NotImplementedError(
            "the shared-prompt layout supports neither soft-capped scores nor attention sinks"
        )
    attend = attend_in_one_kernel if row.in_one_kernel else attend_by_branch
    return attend(query, key, value, row, scaling, sliding_window), None


def attend_in_one_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row: FlatRow,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Flex attention over the whole row: [1, T, heads, D].

    Blocks of the row that do not see each other cost nothing.
    """
    on_gpu = query.device.type == "cuda"
    attend: Callable[..., Tensor] = _compiled_attention() if on_gpu else flex_attention  # type: ignore[assignment]
    grouped = query.shape[1] != key.shape[1]
    out = attend(
        query, key, value, block_mask=row.block_mask(window), scale=scaling, enable_gqa=grouped
    )
    return out.transpose(1, 2)


def attend_by_branch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row: FlatRow,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Attention bucket after bucket of branches: [1, T, heads, D]."""
    heads, width = query.shape[1], query.shape[2]
    q_T, k_T, v_T = (x[0].transpose(0, 1) for x in (query, key, value))
    out_T = query.new_zeros(width, heads, value.shape[-1])
    for bucket in row.buckets:
        mask_BQK = (
            bucket.mask_BQK if window is None else bucket.mask_BQK & (bucket.back_BQK < window)
        )
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
    return out_T[None]


def shared_prefix_recurrence(
    layer: Callable[[Tensor], Tensor], hidden: Tensor, row: FlatRow
) -> Tensor:
    """Run a recurrent layer (linear attention, a short convolution) on every branch of the row.

    A recurrent state cannot be shared as keys are, so each branch is written out with its prompt
    before it. Padding comes last, where no token looks back at it.

    **Arguments:**
        layer: Causal, [B, L, H] -> [B, L, H].
        hidden: [1, T, H].
    **Returns:** [1, T, H].
    """
    out_TH = torch.zeros_like(hidden[0])
    for bucket in row.buckets:
        written_BKH = layer(_rows(hidden[0], bucket.key_BK))
        first_B1 = (
            torch.arange(len(bucket.key_BK), device=hidden.device)[:, None] * written_BKH.shape[1]
        )
        index_M = (first_B1 + bucket.self_BQ).flatten()[bucket.output_M]
        out_TH = out_TH.index_copy(
            0, bucket.row_M, written_BKH.flatten(0, 1).index_select(0, index_M)
        )
    return out_TH[None]


def _rows(x_T: Tensor, index_BL: Tensor) -> Tensor:
    """The rows `index_BL` of `x_T`: [B, L, ...] from [T, ...].

    index_select, because the gradient of plain indexing is summed in no fixed order on a CPU.
    """
    return x_T.index_select(0, index_BL.flatten()).unflatten(0, index_BL.shape)


@cache
def _compiled_attention() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=True)


@cache
def _compiled_mask() -> Callable[..., BlockMask]:
    """Mask builder. Compiled, it never materializes a mask token by token."""
    return torch.compile(create_block_mask, dynamic=True)
