"""Rows of tensors that lie in one or several safetensors files, read without reading the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor


class Rows:
    """Tensors by name. One that is in several files is their rows laid end to end, in the order of
    the files.

    So a checkpoint that two workers wrote is read by one or by four, and a policy whose layers are
    spread over files by any number.

    Example: `weight` of 5 rows, 3 in the first file and 2 in the second: `read("weight", 2, 4)` is
    the last of the one and the first of the other.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._pieces: dict[str, list[tuple[Any, int, int]]] = {}
        for path in paths:
            file = safe_open(path, "pt")
            for name in file.keys():  # noqa: SIM118 (a safe_open is no mapping)
                shape = file.get_slice(name).get_shape()
                held = self._pieces.setdefault(name, [])
                start = held[-1][2] if held else 0
                held.append((file, start, start + (shape[0] if shape else 0)))

    def __contains__(self, name: str) -> bool:
        return name in self._pieces

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`; a scalar, which every file has, whole. Raises LookupError
        where there is no such tensor or row.
        """
        if name not in self:
            raise LookupError(f"{', '.join(map(str, self._paths))}: no tensor {name}")
        pieces = self._pieces[name]
        if pieces[-1][2] == 0:
            whole: Tensor = pieces[0][0].get_tensor(name)
            return whole
        if stop > pieces[-1][2]:
            raise LookupError(
                f"{', '.join(map(str, self._paths))}: {name} has {pieces[-1][2]} rows, not {stop}"
            )
        held = [
            file.get_slice(name)[max(start, first) - first : min(stop, last) - first]
            for file, first, last in pieces
            if max(start, first) < min(stop, last)
        ]
        return torch.cat(held) if held else pieces[0][0].get_slice(name)[:0]
