"""Journal of a shard in progress: its finished samples, from which a killed shard resumes.

A line is `crc32 [problem, sample, truncated, seconds, tokens]`, appended in one write. It survives
a kill of the process immediately, and a power loss after about a second. Reading stops at the first
torn or damaged line. Writing costs about 0.1 microseconds a token.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.engines import Sample
from tasks.rollouts.rows import SampleIndex

SYNC_SECONDS = 1.0
"""Longest time between two syncs to disk while samples are written."""


class Journal:
    """The journal of one shard, open for writing; `found` holds an earlier attempt's samples.

    A context manager. An earlier attempt of less than `redo` seconds is discarded: sampling such a
    shard again is cheap, and as one batch it ends in the same bytes. A batch of only the missing
    samples may differ in one draw of some thousand, because its other shape moves logits by 1e-6.
    """

    def __init__(self, path: Path, redo: float) -> None:
        self.path = path
        self.found: dict[SampleIndex, Sample] = {}
        self._before, valid = 0.0, 0
        for end, (row, number, truncated, seconds, tokens) in lines(path, 0):
            self.found[row, number], self._before, valid = (
                Sample(tokens, truncated),
                seconds,
                end,
            )
        if self._before < redo:
            self._before, valid = 0.0, 0
            self.found.clear()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._fd, valid)  # lines after a torn one would never be read
        self._since = self._synced = time.monotonic()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *details: object) -> None:
        os.close(self._fd)

    def write(self, index: SampleIndex, sample: Sample) -> None:
        now = time.monotonic()
        seconds = round(self._before + now - self._since, 3)
        text = json.dumps(
            [*index, sample.truncated, seconds, sample.tokens], separators=(",", ":")
        ).encode()
        os.write(self._fd, b"%08x %b\n" % (zlib.crc32(text), text))
        if now - self._synced >= SYNC_SECONDS:
            os.fsync(self._fd)
            self._synced = now


class Tail:
    """Counts the responses and tokens that another process has written to a journal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.responses = self.tokens = self._end = 0

    def read(self) -> Tail:
        """Read what was added; from the start again if the file was truncated."""
        if self.path.exists() and self.path.stat().st_size < self._end:
            self.responses = self.tokens = self._end = 0
        for end, line in lines(self.path, self._end):
            self.responses, self.tokens, self._end = (
                self.responses + 1,
                self.tokens + len(line[-1]),
                end,
            )
        return self


def lines(path: Path, start: int) -> Iterator[tuple[int, list[Any]]]:
    """Each complete line after byte `start`, as (byte where it ends, content).

    Stops at the first torn or damaged line.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            start += len(line)
            if line[-1:] != b"\n" or line[:8] != b"%08x" % zlib.crc32(line[9:-1]):
                return
            yield start, json.loads(line[9:])
