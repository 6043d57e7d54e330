"""A KV cache that is written in place; transformers' own copies itself at every token."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tasks.models.hf import DynamicCache, DynamicLayer

ROOM = 64
"""Minimum spare capacity, in tokens, of a new or grown layer; a layer grows by half."""


def spread(cache: DynamicCache, owner_B: Tensor) -> None:
    """Make row `owner_B[i]` of the prefilled cache its row i, with capacity to grow."""
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:  # no subclass, such as one with a window
            cache.layers[index] = GrowingLayer(layer, owner_B)
        else:
            layer.batch_select_indices(owner_B)


class GrowingLayer(DynamicLayer):
    """A layer of full attention that grows in place.

    `keys` and `values`, [B, heads, tokens, size], are the written part of larger buffers.
    """

    def __init__(self, prefilled: DynamicLayer, owner_B: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(prefilled.keys, prefilled.values)
        self._tokens = prefilled.keys.shape[2]
        self._buffers = [
            _enlarged(states, owner_B) for states in (prefilled.keys, prefilled.values)
        ]
        self._show()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        start, self._tokens = self._tokens, self._tokens + key_states.shape[2]
        if self._tokens > self._buffers[0].shape[2]:
            self._buffers = [_enlarged(buffer[:, :, :start]) for buffer in self._buffers]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start : self._tokens] = states
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self._buffers = [buffer.index_select(0, indices) for buffer in self._buffers]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (buffer[:, :, : self._tokens] for buffer in self._buffers)


def _enlarged(written: Tensor, rows_B: Tensor | None = None) -> Tensor:
    """A larger buffer that begins with the written states (of `rows_B`, if given)."""
    batch, heads, tokens, size = written.shape
    buffer = written.new_empty(
        len(rows_B) if rows_B is not None else batch, heads, tokens + max(ROOM, tokens // 2), size
    )
    buffer[:, :, :tokens] = written if rows_B is None else written[rows_B]
    return buffer
