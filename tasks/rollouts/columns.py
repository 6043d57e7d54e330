"""Columns on disk, read by position, so that a batch of any size never has to be in memory.

They implement `erpd_core.columns.Column` for batches of hundreds of millions of tokens. Files are
read with `pread`, not mapped: mapped pages would count as memory of this process until memory is
short.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from erpd_core.columns import Column
from tasks.host.home import home

IN_MEMORY = 1 << 24
"""Number of tokens up to which a column is loaded into memory: 64 MB of float32."""

TYPES = {"F32": np.dtype("<f4"), "I32": np.dtype("<i4")}


@dataclass(frozen=True)
class Extent:
    """A run of consecutive values in a file."""

    path: Path
    start: int
    """Offset of the first value, bytes."""
    count: int
    """Number of values."""


@dataclass(frozen=True)
class FileColumn:
    """A column of values in files: one extent after the other."""

    extents: Sequence[Extent]
    dtype: np.dtype
    scratch: IO[bytes] | None = None
    """The unnamed file of the only extent, used instead of its path; deleted with the column."""

    @cached_property
    def _first(self) -> list[int]:
        """Position of each extent's first value; the last entry is the number of values."""
        return [0, *np.cumsum([extent.count for extent in self.extents]).tolist()]

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, where: Tensor | slice) -> Tensor:
        if isinstance(where, slice):
            start, stop, step = where.indices(len(self))
            if step != 1:
                return self[torch.arange(start, stop, step)]
            values = np.empty(max(0, stop - start), self.dtype)
            self._read(start, values)
            return torch.from_numpy(values)
        index = where.cpu().numpy()
        values = np.empty(len(index), self.dtype)
        breaks = np.flatnonzero(np.diff(index) != 1) + 1
        bounds = [0, *breaks.tolist(), len(index)]
        for begin, end in pairwise(bounds):  # mostly complete responses
            if end > begin:
                self._read(int(index[begin]), values[begin:end])
        return torch.from_numpy(values)

    def _read(self, start: int, into: np.ndarray) -> None:
        """Fill `into` with the values from position `start` on.

        **Raises:** IndexError beyond the end, OSError if a file is shorter than it was.
        """
        if start < 0 or start + len(into) > len(self):
            raise IndexError(f"values {start} to {start + len(into)} of a column of {len(self)}")
        number = bisect_right(self._first, start) - 1
        while len(into):
            extent, skipped = self.extents[number], start - self._first[number]
            some = into[: extent.count - skipped]
            with (
                nullcontext(self.scratch)
                if self.scratch
                else extent.path.open("rb", buffering=0) as file
            ):
                _fill(file, extent.start + skipped * self.dtype.itemsize, some.data.cast("B"))
            start, into, number = start + len(some), into[len(some) :], number + 1


def _fill(file: IO[bytes], offset: int, buffer: memoryview) -> None:
    while buffer:
        count = os.preadv(file.fileno(), [buffer], offset)
        if not count:
            raise OSError(f"{file.name} ends {len(buffer)} bytes too early")
        buffer, offset = buffer[count:], offset + count


def stored_column(paths: Iterable[Path], name: str) -> Column:
    """The tensor `name` of each safetensors file, concatenated; large columns stay on disk.

    **Returns:** A tensor in memory up to `IN_MEMORY` values, else a `FileColumn`.
    **Raises:** KeyError if a file has no such tensor; ValueError if it is not one-dimensional
        float32 or int32.
    """
    pieces = [_extent(path, name) for path in paths]
    (dtype,) = {dtype for _, dtype in pieces}
    column = FileColumn([extent for extent, _ in pieces], dtype)
    return column[:] if len(column) <= IN_MEMORY else column


def _extent(path: Path, name: str) -> tuple[Extent, np.dtype]:
    """Location and dtype of a tensor in a safetensors file.

    The file has the length of its header (8 bytes, little endian), the header as JSON, and the
    bytes of the tensors.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    entry = header[name]
    dtype, shape = entry["dtype"], entry["shape"]
    if dtype not in TYPES or len(shape) != 1:
        raise ValueError(
            f"{path}: {name} is {dtype} {shape}; a column is one axis of float32 or int32"
        )
    return Extent(path, 8 + length + entry["data_offsets"][0], shape[0]), TYPES[dtype]


def gathered_column(parts: Iterator[np.ndarray]) -> Column:
    """Concatenate parts of one dtype into a column.

    **Returns:** A tensor up to `IN_MEMORY` values (int64 for integers), else a column in an unnamed
        file under ERPD_HOME.
    """
    loaded: list[np.ndarray] = []
    count = 0
    for part in parts:
        loaded.append(part)
        count += len(part)
        if count > IN_MEMORY:
            return _spilled(loaded, parts)
    values = torch.from_numpy(np.concatenate(loaded))
    return values if values.is_floating_point() else values.long()


def _spilled(loaded: list[np.ndarray], rest: Iterator[np.ndarray]) -> Column:
    folder = home() / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    dtype, count = loaded[0].dtype, 0
    while loaded:
        count += file.write(loaded.pop(0).data.cast("B")) // dtype.itemsize
    for part in rest:
        count += file.write(part.data.cast("B")) // dtype.itemsize
    file.flush()
    return FileColumn([Extent(folder, 0, count)], dtype, file)
