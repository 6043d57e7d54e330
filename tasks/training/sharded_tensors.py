"""Reads rows of tensors from one or several safetensors files, without reading the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor


class Rows:
    """Tensors by name. The rows of a tensor in several files are joined in the order of the files.

    So one or four workers can read a checkpoint that two workers wrote, and any number of workers
    can read a policy whose layers are in several files.

    **Example:** `weight` has 5 rows, 3 in the first file and 2 in the second. Then
    `read("weight", 2, 4)` gives the last row of the first file and the first row of the second.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._pieces: dict[str, list[tuple[Any, int, int]]] = {}
        for path in paths:
            file = safe_open(path, "pt")
            for name in file.keys():  # noqa: SIM118 (a safe_open is no mapping)
                shape = file.get_slice(name).get_shape()
                pieces = self._pieces.setdefault(name, [])
                start = pieces[-1][2] if pieces else 0
                pieces.append((file, start, start + (shape[0] if shape else 0)))

    def __contains__(self, name: str) -> bool:
        return name in self._pieces

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` (exclusive) of a tensor; for a scalar, the scalar.

        Every file holds the scalar.

        **Raises:** LookupError if there is no such tensor or row.
        """
        if name not in self:
            raise LookupError(f"{', '.join(map(str, self._paths))}: no tensor {name}")
        pieces = self._pieces[name]
        if pieces[-1][2] == 0:
            scalar: Tensor = pieces[0][0].get_tensor(name)
            return scalar
        if stop > pieces[-1][2]:
            raise LookupError(
                f"{', '.join(map(str, self._paths))}: {name} has {pieces[-1][2]} rows, not {stop}"
            )
        rows = [
            file.get_slice(name)[max(start, first) - first : min(stop, last) - first]
            for file, first, last in pieces
            if max(start, first) < min(stop, last)
        ]
        return torch.cat(rows) if rows else pieces[0][0].get_slice(name)[:0]
