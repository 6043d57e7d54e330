"""Who scores the shards of a rollout: the stage's own process, or actors beside it, any of which
may die and be replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from erpd_core.config import RuntimeConfig
from erpd_core.optimize import score
from tasks.execution.actors import map_over_actors
from tasks.execution.progress import Progress
from tasks.execution.ray_cluster import ensure_ray
from tasks.execution.requests import scorer_request
from tasks.host.machine import use_threads
from tasks.models.policy import HFPolicy, load_policy
from tasks.rollouts import load_batch


class Scorer:
    """One policy, loaded at the first shard and warm from then on."""

    def __init__(self, policy: Path, runtime: RuntimeConfig, say: Callable[[str], object]) -> None:
        """`say` is told what slows the model down."""
        self.policy, self.runtime, self.say = policy, runtime, say
        self._model: HFPolicy | None = None

    def score(self, shard: Path) -> dict[str, Tensor]:
        """`lp` and `entropy` of the shard's response tokens: [N] float32, nats."""
        if self._model is None:
            use_threads(self.runtime.cpus)
            self._model = load_policy(self.policy, self.runtime, self.say)
        lp_N, entropy_N = score(self._model, load_batch(iter([shard])), self.runtime.token_budget)
        return {"lp": lp_N, "entropy": entropy_N}


@dataclass(frozen=True)
class _Watch:
    """A shard shows no sign before it is scored."""

    say: Callable[[str], object]

    def sign(self, _: Path) -> None:
        return None

    def show(self) -> None:
        return None


def scored(
    shards: Sequence[Path], policy: Path, runtime: RuntimeConfig, progress: Progress
) -> Generator[tuple[Path, dict[str, Tensor]]]:
    """Each shard with its columns, as they are finished. Close it, and no actor stays.

    Raises RuntimeError when the actors that are given one shard die again and again (see
    `tasks.execution.actors.map_over_actors`).
    """
    if not runtime.scores_apart:
        scorer = Scorer(policy, runtime, progress.say)
        for shard in shards:
            yield shard, scorer.score(shard)
        return

    ensure_ray(runtime)
    share = scorer_request(runtime)
    own = runtime.model_copy(update={"cpus": share.cpus, "gpus": share.gpus})
    yield from map_over_actors(
        lambda start: start(Scorer, policy, own, progress.say),
        lambda actor, shard: actor.score.remote(shard),
        shards,
        _Watch(progress.say),
        share,
        min(runtime.scorers, len(shards)),
        runtime.sampler_deadline,
    )
