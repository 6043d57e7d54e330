"""Selection of policies by races: samples are drawn until the answer is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

from erpd_core.config import RaceSelection
from erpd_core.racing import compare_in_sequence
from erpd_core.refs import PolicyRef, TrainingRef
from erpd_core.scoring import Comparison, Outcomes
from flows.steps.context import seed_for
from flows.steps.recorder import StageCall
from flows.steps.selection import Selection
from tasks.evaluation.gain import ProveGain
from tasks.evaluation.race import RacePolicies, TrustRegion
from tasks.execution.ray_cluster import max_concurrent_stages
from tasks.execution.stage import Stage
from tasks.rollouts import outcomes
from tasks.training.base import Training


class Racing(Selection):
    """Races the candidates, and samples a teacher until its gain is proven.

    Each race has a seed of its own, so its candidates and the validation samples of its winner do
    not depend on its samples.
    """

    def best(self, training: TrainingRef, role: str) -> PolicyRef:
        if len(training.trail) == 1:
            return training.last
        return self._race({f"step {policy.step}": policy for policy in training.trail}, role)

    def validate_kept(self, stage: Training, role: str) -> Callable[[], None]:
        alone = role != "student" and len(stage.trail) == 1
        return (lambda: None) if alone else super().validate_kept(stage, role)

    def best_student(self, teacher: PolicyRef, trainings: Mapping[str, TrainingRef]) -> PolicyRef:
        candidates = {
            f"{name} step {policy.step}".lstrip(): policy
            for name, training in trainings.items()
            for policy in training.trail
        }
        trust = self._trust(teacher)
        if len(candidates) == 1 and trust is None:
            return next(iter(candidates.values()))
        return self._race(candidates, "student", trust)

    def samples_for_decision(self, teacher: PolicyRef) -> tuple[Outcomes, Outcomes]:
        config, store = self.context.config, self.recorder.store
        (start,) = self.validate([self.state.start], "start")()
        stage = ProveGain(
            policy=teacher,
            start=start,
            sampling=config.evaluation.validation_sampling,
            seed=seed_for(config, 0, "validation"),
            first=self._settings.round,
            alpha=self._alpha,
            min_gain=config.decision.min_gain,
        )
        label = f"compare {teacher.role} (step {teacher.step}) with the start"
        gain = self.recorder.run(stage, label, f"{teacher.role} validation")
        return outcomes(store, start), outcomes(store, gain.rollouts)

    def compare(self, a: Outcomes, b: Outcomes) -> Comparison:
        return compare_in_sequence(a, b, self._alpha, self.context.config.decision.min_gain)

    def first_stage(self, policy: PolicyRef, role: str) -> Stage[Any]:
        # any policy will do as the teacher: its KL is measured by a stage of its own
        trust = self._trust(policy) if role == "student" else None
        return _first_stage(self._stage({"": policy}, role, trust), policy)

    def _trust(self, teacher: PolicyRef) -> TrustRegion | None:
        """The KL budget of students; None if the recipe has none."""
        config = self.context.config.distill
        if not (config.kl_budget or config.kl_budget_of_teacher):
            return None
        return TrustRegion(
            old=self.state.start,
            budget=config.kl_budget,
            teacher=teacher,
            teacher_share=config.kl_budget_of_teacher,
        )

    @property
    def _settings(self) -> RaceSelection:
        selection = self.context.config.evaluation.selection
        assert isinstance(selection, RaceSelection)
        return selection

    @property
    def _alpha(self) -> float:
        """The one-sided level of `decision.z`; above 0, so that its inverse is finite."""
        return max(1e-12, 1 - NormalDist().cdf(self.context.config.decision.z))

    def _stage(
        self, candidates: Mapping[str, PolicyRef], role: str, trust: TrustRegion | None = None
    ) -> RacePolicies:
        return RacePolicies(
            candidates=dict(candidates),
            problems=self.state.validation,
            sampling=self.context.config.evaluation.validation_sampling,
            race=self._settings,
            seed=self.context.seed(f"{role} race"),
            trust=trust,
        )

    def _race(
        self, candidates: Mapping[str, PolicyRef], role: str, trust: TrustRegion | None = None
    ) -> PolicyRef:
        stage = self._stage(candidates, role, trust)
        if max_concurrent_stages(self.context.config.runtime) > 1:
            self._first_round(stage, role)
        race = self.recorder.run(stage, f"race {len(candidates)} policies ({role})", f"{role} race")
        self.recorder.record_race(role, race)
        return race.policy

    def _first_round(self, stage: RacePolicies, role: str) -> None:
        """Measure the first round, in which all candidates take part, in parallel."""
        measured = dict(stage.candidates)
        if stage.trust and stage.trust.teacher_share:
            measured["teacher"] = stage.trust.teacher
        calls = [
            StageCall(
                _first_stage(stage, policy), f"validate {role} ({name})", f"{role} first round"
            )
            for name, policy in measured.items()
        ]
        self.recorder.start(calls, phase="validation")()


def _first_stage(stage: RacePolicies, policy: PolicyRef) -> Stage[Any]:
    """The stage that measures a policy on the first round of a race."""
    return stage.first_report(policy) if stage.trust else stage.samples_of(policy, 0)
