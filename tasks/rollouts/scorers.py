"""Scoring of shards: one policy for each worker."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from erpd_core.config import RuntimeConfig
from erpd_core.optimize import score
from tasks.execution.progress import Progress
from tasks.execution.resource_requests import scorer_request
from tasks.host.machine import use_threads
from tasks.models.policy import HFPolicy, load_policy
from tasks.rollouts import load_batch
from tasks.rollouts.shard_workers import ShardWorkers, no_tick


class Scorer:
    """A shard worker with one policy, loaded at the first shard and kept for the others."""

    def __init__(self, policy: Path, runtime: RuntimeConfig, say: Callable[[str], object]) -> None:
        """`say` shows the reason if the model runs slower than it could."""
        self.policy, self.runtime, self.say = policy, runtime, say
        self._model: HFPolicy | None = None

    def run(self, shard: Path, tick: Callable[[], object] = no_tick) -> dict[str, Tensor]:
        """`lp` and `entropy` of the shard's response tokens: [N] float32, nats."""
        if self._model is None:
            use_threads(self.runtime.cpus)
            self._model = load_policy(self.policy, self.runtime, self.say)
        lp_N, entropy_N = score(self._model, load_batch(iter([shard])), self.runtime.token_budget)
        return {"lp": lp_N, "entropy": entropy_N}

    def close(self) -> None:
        self._model = None


@dataclass(frozen=True)
class _Watch:
    """Watch without signs: a shard shows no progress before it is scored."""

    say: Callable[[str], object]

    def sign(self, _: Path) -> None:
        return None

    def show(self) -> None:
        return None


def score_shards(
    shards: Sequence[Path], policy: Path, runtime: RuntimeConfig, progress: Progress
) -> Generator[tuple[Path, dict[str, Tensor]]]:
    """Each shard with its columns, as they are finished (`ShardWorkers.map`)."""
    count = min(runtime.scorers, len(shards))
    actors = (count, scorer_request(runtime)) if runtime.scores_on_actors else None
    workers: ShardWorkers[Path] = ShardWorkers(
        Scorer, lambda own: (policy, own, progress.say), runtime, actors
    )
    with closing(workers):
        yield from workers.map(shards, _Watch(progress.say))
