"""Progress of sampling, read from the journals of unfinished shards, whichever process writes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tasks.execution.progress import Progress
from tasks.rollouts.journal import Tail
from tasks.rollouts.shard import Shard


class Meter:
    """Reports finished responses, and tokens a second of this session.

    **Arguments:**
        shards: The shards that are not stored yet.
        ready: Number of responses that need not be sampled.
        total: Number of all responses.
    """

    def __init__(self, progress: Progress, shards: Sequence[Shard], ready: int, total: int) -> None:
        self.progress, self.ready, self.total = progress, ready, total
        self._tails = {shard.path: Tail(shard.journal).read() for shard in shards}
        self._tokens = -sum(tail.tokens for tail in self._tails.values())  # an earlier session's
        self._since = time.monotonic()
        progress.event(
            done=ready + sum(tail.responses for tail in self._tails.values()), total=total, info={}
        )

    def show(self) -> None:
        """Report the progress if an event is due."""
        if not self.progress.due:
            return
        tails = [tail.read() for tail in self._tails.values()]
        tokens = self._tokens + sum(tail.tokens for tail in tails)
        speed = {"tokens/s": round(max(0, tokens) / (time.monotonic() - self._since))}
        self.progress(
            min(self.ready + sum(tail.responses for tail in tails), self.total - 1),
            self.total,
            **speed,
        )

    def sign(self, shard: Shard) -> int:
        """How many responses of an unfinished shard are finished."""
        return self._tails[shard.path].read().responses

    def stored(self, shard: Shard) -> None:
        """Count a shard as stored, and remove its journal, which is no longer needed."""
        tail = self._tails.pop(shard.path).read()
        self.ready += tail.responses
        self._tokens += tail.tokens
        tail.path.unlink(missing_ok=True)

    def say(self, text: str) -> None:
        """Show a message to the user."""
        self.progress.say(text)
