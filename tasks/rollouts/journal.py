"""The finished samples of a shard in hand, written down one by one, so that a killed shard goes on
with its unfinished ones.

A line is `crc32 [problem, sample, truncated, seconds, tokens]`, in one write to the end of the
file: it survives the process at once, and a loss of power from the second after it on. A torn or
damaged line ends what can be believed. It costs about 0.1 microseconds a token.
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


class Journal:
    """Context manager: takes over what an earlier attempt finished (`found`), and adds to it.

    An attempt that lasted less than `redo` seconds is forgotten: the shard is cheap, and sampled as
    one batch again it ends in the same bytes, where the rest of a batch may differ in one draw of
    some thousand (another shape moves logits by 1e-6).
    """

    def __init__(self, path: Path, redo: float) -> None:
        self.path = path
        self.found: dict[SampleIndex, Sample] = {}
        self._before, believed = 0.0, 0
        for end, (row, number, truncated, seconds, tokens) in lines(path, 0):
            self.found[row, number], self._before, believed = (
                Sample(tokens, truncated),
                seconds,
                end,
            )
        if self._before < redo:
            self._before, believed = 0.0, 0
            self.found.clear()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._fd, believed)  # what follows a torn line would never be believed
        self._since = self._synced = time.monotonic()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *details: object) -> None:
        os.close(self._fd)

    def write(self, place: SampleIndex, sample: Sample) -> None:
        now = time.monotonic()
        seconds = round(self._before + now - self._since, 3)
        text = json.dumps(
            [*place, sample.truncated, seconds, sample.tokens], separators=(",", ":")
        ).encode()
        os.write(self._fd, b"%08x %b\n" % (zlib.crc32(text), text))
        if now - self._synced >= SYNC_SECONDS:
            os.fsync(self._fd)
            self._synced = now


class Tail:
    """How many responses and tokens another process has written down in a journal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.responses = self.tokens = self._end = 0

    def read(self) -> Tail:
        """Follow the file to its present end; from its start again when it was begun anew."""
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
    """(byte where it ends, what it says) of each whole line after byte `start`, up to the first
    that is torn or damaged.
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
