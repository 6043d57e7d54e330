"""Columns on disk: read by place, so that a batch of hundreds of millions of tokens is never in
memory (`erpd_core.columns`).

Read with `pread`, not mapped: what was read is let go at once, and does not stay in the process
until memory is short.
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
"""Tokens up to which a column is simply loaded: 64 MB of float32."""

TYPES = {"F32": np.dtype("<f4"), "I32": np.dtype("<i4")}


@dataclass(frozen=True)
class Extent:
    """A run of values in a file."""

    path: Path
    start: int
    """Byte at which it begins."""
    count: int


@dataclass(frozen=True)
class FileColumn:
    """Values that lie in files, one extent after the other."""

    extents: Sequence[Extent]
    dtype: np.dtype
    scratch: IO[bytes] | None = None
    """The nameless file that the one extent is in, instead of its path; it goes with the column."""

    @cached_property
    def _first(self) -> list[int]:
        """Place of each extent's first value; at the end, of all values."""
        return [0, *np.cumsum([extent.count for extent in self.extents]).tolist()]

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, where: Tensor | slice) -> Tensor:
        if isinstance(where, slice):
            start, stop, step = where.indices(len(self))
            if step != 1:
                return self[torch.arange(start, stop, step)]
            found = np.empty(max(0, stop - start), self.dtype)
            self._read(start, found)
            return torch.from_numpy(found)
        index = where.cpu().numpy()
        found = np.empty(len(index), self.dtype)
        breaks = np.flatnonzero(np.diff(index) != 1) + 1
        bounds = [0, *breaks.tolist(), len(index)]
        for begin, end in pairwise(bounds):  # whole responses, mostly
            if end > begin:
                self._read(int(index[begin]), found[begin:end])
        return torch.from_numpy(found)

    def _read(self, start: int, into: np.ndarray) -> None:
        """Fill `into` from place `start` on. Raises IndexError beyond the end, OSError when a
        file is shorter than it was.
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


def _fill(file: IO[bytes], offset: int, room: memoryview) -> None:
    while room:
        got = os.preadv(file.fileno(), [room], offset)
        if not got:
            raise OSError(f"{file.name} ends {len(room)} bytes too early")
        room, offset = room[got:], offset + got


def stored_column(paths: Iterable[Path], name: str) -> Column:
    """The tensor called `name` in each safetensors file, one after the other: a tensor where it is
    small, else left on disk.

    Raises KeyError when a file has no such tensor, ValueError when it is not one-dimensional
    float32 or int32.
    """
    found = [_extent(path, name) for path in paths]
    (dtype,) = {dtype for _, dtype in found}
    column = FileColumn([extent for extent, _ in found], dtype)
    return column[:] if len(column) <= IN_MEMORY else column


def _extent(path: Path, name: str) -> tuple[Extent, np.dtype]:
    """Where a tensor lies: the file is the length of its header (8 bytes, little endian), the
    header as JSON, and the tensors' bytes.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    one = header[name]
    if one["dtype"] not in TYPES or len(one["shape"]) != 1:
        raise ValueError(
            f"{path}: {name} is {one['dtype']} {one['shape']}; a column is one axis of float32 or "
            f"int32"
        )
    return Extent(path, 8 + length + one["data_offsets"][0], one["shape"][0]), TYPES[one["dtype"]]


def gathered_column(parts: Iterator[np.ndarray]) -> Column:
    """Parts of one dtype as one column: in memory (int64 for integers) while it is small, else
    in a nameless file under ERPD_HOME.
    """
    held: list[np.ndarray] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(part)
        if count > IN_MEMORY:
            return _spilled(held, parts)
    whole = torch.from_numpy(np.concatenate(held))
    return whole if whole.is_floating_point() else whole.long()


def _spilled(held: list[np.ndarray], rest: Iterator[np.ndarray]) -> Column:
    folder = home() / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    dtype, count = held[0].dtype, 0
    while held:
        count += file.write(held.pop(0).data.cast("B")) // dtype.itemsize
    for part in rest:
        count += file.write(part.data.cast("B")) // dtype.itemsize
    file.flush()
    return FileColumn([Extent(folder, 0, count)], dtype, file)
