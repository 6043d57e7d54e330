"""The stage that races policies on the validation problems (`erpd_core.racing`)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

from erpd_core.config import RaceSelection, RuntimeConfig, SamplingConfig
from erpd_core.racing import Race
from erpd_core.refs import Contestant, Frozen, PolicyRef, ProblemsRef, RaceRef
from erpd_core.schedule import Phase
from erpd_core.scoring import Outcomes
from tasks.evaluation.evaluate import EvaluatePolicy
from tasks.execution.nested import get_or_compute_inside
from tasks.execution.progress import Progress
from tasks.execution.stage import Context, Stage, Verb, get_or_compute
from tasks.rollouts import SampleRollouts, outcomes
from tasks.rollouts.rows import seed_of
from tasks.rollouts.samplers import kept_engines
from tasks.store import Build, Store

TEACHER = ""
"""Name of the teacher among the policies whose KL is measured; no candidate has it."""


class TrustRegion(Frozen):
    """The KL that a student may have to the start of its iteration (Eq. 7)."""

    old: PolicyRef
    """The start."""
    budget: float | None
    """Nats per token."""
    teacher: PolicyRef
    """The teacher of the iteration."""
    teacher_share: float | None
    """The same budget as a share of the teacher's own KL. The smaller of the two holds."""


class RacePolicies(Stage[RaceRef]):
    """The best of several policies on the validation problems.

    Each round's samples are artifacts, so an interrupted race resumes exactly where it was. With a
    trust region, policies whose KL exceeds it on the samples of the first round do not take part;
    if none is left, the first candidate wins.
    """

    KIND: ClassVar[str] = "race"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = RaceRef
    VERB: ClassVar[Verb] = "evaluate"
    PHASE: ClassVar[Phase | None] = "validation"

    candidates: dict[str, PolicyRef]
    """Name -> policy, in the order that decides ties."""
    problems: ProblemsRef
    sampling: SamplingConfig
    race: RaceSelection
    seed: int
    trust: TrustRegion | None = None

    def runs_on_actors(self, runtime: RuntimeConfig) -> bool:
        return runtime.samples_on_actors

    def spec(self) -> dict[str, Any]:
        limits = {"budget", "teacher_share"}
        trust = self.trust.model_dump(mode="json", include=limits) if self.trust else None
        return {
            "candidates": list(self.candidates),
            "sampling": self.sampling.model_dump(mode="json"),
            "race": self.race.model_dump(mode="json"),
            "seed": self.seed,
            "trust": trust,
        }

    def inputs(self) -> dict[str, str]:
        trust = {"old": self.trust.old.id, "teacher": self.trust.teacher.id} if self.trust else {}
        return {
            "problems": self.problems.id,
            **{f"candidate-{place}": policy.id for place, policy in enumerate(self.policies, 1)},
            **trust,
        }

    @property
    def policies(self) -> list[PolicyRef]:
        return list(self.candidates.values())

    @cached_property
    def rounds(self) -> list[int]:
        """Samples per problem of each round."""
        return self.race.rounds(self.sampling.samples)

    def samples_of(self, policy: PolicyRef, number: int) -> SampleRollouts:
        """The stage that draws a policy's samples of round `number` (0, 1, ...)."""
        return SampleRollouts(
            policy=policy,
            problems=self.problems,
            sampling=self.sampling.model_copy(update={"samples": self.rounds[number]}),
            seed=seed_of(self.seed, "round", number) % 2**32,
        )

    def first_report(self, policy: PolicyRef) -> EvaluatePolicy:
        """The stage that measures a policy's KL to the start on its samples of the first round."""
        assert self.trust is not None, "without a trust region no KL is needed"
        first = self.samples_of(policy, 0)
        return EvaluatePolicy(
            policy=policy,
            old=self.trust.old,
            base=self.trust.old,
            benchmarks={"validation": self.problems},
            sampling=first.sampling,
            seed=first.seed,
        )

    def compute(self, context: Context, build: Build) -> RaceRef:
        kls, budget = self._distances(context)
        within = [name for name in self.candidates if kls.get(name, 0.0) <= budget]
        race = Race(within or [next(iter(self.candidates))], self.race.alpha, len(self.candidates))
        with kept_engines(context.runtime):
            for number in range(len(self.rounds)):
                if len(race.alive) == 1:
                    break
                race.add(self._sample(context, {n: self.candidates[n] for n in race.alive}, number))
                context.progress(number + 1, len(self.rounds), left=len(race.alive))
        return RaceRef(
            id=build.id,
            winner=race.leader,
            contestants=tuple(
                self._contestant(context.store, name, race, kls.get(name))
                for name in self.candidates
            ),
            problems=self.problems.count,
            budget=sum(self.rounds),
            full=self.sampling.samples,
            kl_budget=budget if math.isfinite(budget) else None,
        )

    def _sample(
        self, context: Context, policies: Mapping[str, PolicyRef], number: int
    ) -> dict[str, Outcomes]:
        """The outcomes of each policy in round `number`."""
        rollouts = {
            name: get_or_compute(self.samples_of(policy, number), _silent(context))
            for name, policy in policies.items()
        }
        return {name: outcomes(context.store, ref) for name, ref in rollouts.items()}

    def _distances(self, context: Context) -> tuple[dict[str, float], float]:
        """KL of every candidate to the start, and the KL budget; both in nats per token."""
        if self.trust is None:
            return {}, math.inf
        share, silent = self.trust.teacher_share, _silent(context)
        measured = {**self.candidates, **({TEACHER: self.trust.teacher} if share else {})}
        with kept_engines(context.runtime):
            self._sample(context, measured, 0)
        kls = {
            name: get_or_compute_inside(self, self.first_report(policy), silent).kl_old
            for name, policy in measured.items()
        }
        of_teacher = share * kls.pop(TEACHER) if share else math.inf
        return kls, min(self.trust.budget or math.inf, of_teacher)

    def _contestant(self, store: Store, name: str, race: Race, kl: float | None) -> Contestant:
        """How a candidate fared. One that did not take part has the samples of its first round."""
        policy = self.candidates[name]
        if race.samples.get(name):
            samples, average = race.samples[name], race.average(name)
        else:
            first = self.samples_of(policy, 0).stored(store)
            samples, average = (first.samples, first.accuracy) if first else (0, 0.0)
        beaten_by = race.dropped.get(name)
        dropped = f"{beaten_by} is better" if beaten_by else None
        return Contestant(
            name=name,
            policy=policy,
            samples=samples,
            avg=average,
            kl_old=kl,
            dropped=dropped if name in race.names else "beyond the KL budget",
        )


def _silent(context: Context) -> Context:
    """The context without progress: the race shows its own."""
    return dataclasses.replace(context, progress=Progress(None))
