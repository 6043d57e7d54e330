"""The stage that samples a policy on the validation problems until its gain is proven."""

from __future__ import annotations

from typing import Any, ClassVar

from erpd_core.config import RuntimeConfig, SamplingConfig
from erpd_core.racing import compare_in_sequence
from erpd_core.refs import GainRef, PolicyRef, RolloutRef
from erpd_core.schedule import Phase
from tasks.execution.stage import Context, Stage, Verb, get_or_compute
from tasks.rollouts import SampleRollouts, outcomes
from tasks.rollouts.samplers import kept_engines
from tasks.store import Build


class ProveGain(Stage[GainRef]):
    """Samples of a policy that suffice to say whether it is better than its start.

    It starts with few samples per problem and doubles them until the gain is proven or all samples
    are drawn. The start has all its samples already, to the same problems and seeds.
    """

    KIND: ClassVar[str] = "gain"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = GainRef
    VERB: ClassVar[Verb] = "evaluate"
    PHASE: ClassVar[Phase | None] = "validation"

    policy: PolicyRef
    start: RolloutRef
    """Samples of the start, on the same problems."""
    sampling: SamplingConfig
    seed: int
    first: int
    """Samples per problem to begin with."""
    alpha: float
    """Probability, at most, that a gain which is none is called proven."""
    min_gain: float
    """Gain in accuracy (0 to 1) that has to be exceeded."""

    def runs_on_actors(self, runtime: RuntimeConfig) -> bool:
        return runtime.samples_on_actors

    def spec(self) -> dict[str, Any]:
        settings = {"sampling", "seed", "first", "alpha", "min_gain"}
        return self.model_dump(mode="json", include=settings)

    def inputs(self) -> dict[str, str]:
        return {
            "policy": self.policy.id,
            "start": self.start.id,
            "problems": self.start.problems.id,
        }

    def compute(self, context: Context, build: Build) -> GainRef:
        start = outcomes(context.store, self.start)
        with kept_engines(context.runtime):
            for samples in self._doses():
                rollouts = get_or_compute(self._samples(samples), context)
                tried = outcomes(context.store, rollouts)
                if compare_in_sequence(tried, start, self.alpha, self.min_gain).proven:
                    break
        return GainRef(id=build.id, rollouts=rollouts)

    def _doses(self) -> list[int]:
        """Samples per problem of each attempt; each contains those of the one before."""
        doses, samples = [], self.first
        while samples < self.sampling.samples:
            doses.append(samples)
            samples *= 2
        return [*doses, self.sampling.samples]

    def _samples(self, samples: int) -> SampleRollouts:
        return SampleRollouts(
            policy=self.policy,
            problems=self.start.problems,
            sampling=self.sampling.model_copy(update={"samples": samples}),
            seed=self.seed,
        )
