"""Selection of policies on the validation problems, by all samples of all of them.

Choices depend on validation only, never on the benchmarks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from erpd_core.config import CampaignConfig
from erpd_core.refs import EvalReport, PolicyRef, ProblemsRef, RolloutRef, TrainingRef
from erpd_core.scoring import Comparison, Outcomes, avg_at_k, compare
from flows.steps.context import IterationContext, seed_for
from flows.steps.recorder import CampaignRecorder, PendingResults, StageCall
from tasks.evaluation.evaluate import EvaluatePolicy
from tasks.execution.ray_cluster import max_concurrent_stages
from tasks.execution.stage import Stage
from tasks.rollouts import SampleRollouts, outcomes
from tasks.training.base import Training


def validation_stage(
    config: CampaignConfig, policy: PolicyRef, problems: ProblemsRef
) -> SampleRollouts:
    """The stage that samples a policy on the validation problems; one seed for all policies."""
    return SampleRollouts(
        policy=policy,
        problems=problems,
        sampling=config.evaluation.validation_sampling,
        seed=seed_for(config, 0, "validation"),
    )


class Selection(ABC):
    """Selects among the policies of one iteration on the validation problems."""

    def __init__(self, context: IterationContext) -> None:
        self.context, self.state, self.recorder = context, context.state, context.recorder

    @abstractmethod
    def best(self, training: TrainingRef, role: str) -> PolicyRef:
        """The kept policy with the highest validation score. Ties go to the earliest step."""

    @abstractmethod
    def best_student(self, teacher: PolicyRef, trainings: Mapping[str, TrainingRef]) -> PolicyRef:
        """The kept student with the highest validation score within the KL budget.

        Ties go to the earliest. If none is within the budget, the first one is taken.

        **Arguments:**
            teacher: `kl_budget_of_teacher` is a share of its KL to the start.
            trainings: Name of the alternative -> its distillation.
        """

    def validate_chosen(self, student: PolicyRef) -> Callable[[], object]:
        """Start what is measured of the chosen student besides; returns what waits for it."""
        return lambda: None

    @abstractmethod
    def samples_for_decision(self, teacher: PolicyRef) -> tuple[Outcomes, Outcomes]:
        """Validation outcomes of the iteration's start and of its teacher."""

    @abstractmethod
    def compare(self, a: Outcomes, b: Outcomes) -> Comparison:
        """The paired comparison on which a decision rests."""

    @abstractmethod
    def first_stage(self, policy: PolicyRef, role: str) -> Stage[Any]:
        """The stage that measures a policy as far as it needs no other policy."""

    def validate(self, policies: Sequence[PolicyRef], role: str) -> PendingResults[RolloutRef]:
        """Start drawing all validation samples of policies."""
        return self._validate(policies, role, self.recorder)

    def outcomes_of(self, policies: Mapping[int, PolicyRef]) -> dict[int, Outcomes]:
        """Iteration -> all validation outcomes of its student, recorded in that iteration."""
        pending = {
            index: self._validate([policy], "student", self.recorder.at(index))
            for index, policy in policies.items()
        }
        return {
            index: outcomes(self.recorder.store, results()[0]) for index, results in pending.items()
        }

    def _validate(
        self, policies: Sequence[PolicyRef], role: str, recorder: CampaignRecorder
    ) -> PendingResults[RolloutRef]:
        calls = [
            StageCall(
                validation_stage(self.context.config, policy, self.state.validation),
                f"validate {role} (step {policy.step})",
                f"{role} validation",
            )
            for policy in policies
        ]
        return recorder.start(calls, phase="validation")

    def validate_kept(self, stage: Training, role: str) -> Callable[[], None]:
        """A function that starts sampling the policies which a running training has kept.

        Call it while the training runs. It does nothing if no second stage can run beside it.

        **Arguments:**
            role: What the policies are candidates for.
        """
        begun: set[str] = set()
        beside = max_concurrent_stages(self.context.config.runtime) > 1

        def look() -> None:
            for policy in stage.kept_so_far(self.recorder.store) if beside else ():
                if policy.id not in begun:
                    begun.add(policy.id)
                    self.recorder.start_ahead(
                        self.first_stage(policy, role), f"validate {role} (step {policy.step})"
                    )

        return look


class FullSelection(Selection):
    """Draws all validation samples of every candidate."""

    def best(self, training: TrainingRef, role: str) -> PolicyRef:
        validations = self.validate(training.trail, role)()
        scores = [avg_at_k(outcomes(self.recorder.store, ref)).avg for ref in validations]
        return training.trail[scores.index(max(scores))]

    def validate_chosen(self, student: PolicyRef) -> Callable[[], object]:
        return self.validate([student], "student")  # for curves, and scores over time

    def samples_for_decision(self, teacher: PolicyRef) -> tuple[Outcomes, Outcomes]:
        (start,) = self.validate([self.state.start], "start")()
        (validation,) = self.validate([teacher], teacher.role)()
        return outcomes(self.recorder.store, start), outcomes(self.recorder.store, validation)

    def compare(self, a: Outcomes, b: Outcomes) -> Comparison:
        return compare(a, b)

    def first_stage(self, policy: PolicyRef, role: str) -> Stage[Any]:
        if role == "student":
            return self._report_stage(policy)
        return validation_stage(self.context.config, policy, self.state.validation)

    def best_student(self, teacher: PolicyRef, trainings: Mapping[str, TrainingRef]) -> PolicyRef:
        config = self.context.config.distill
        tried = [
            (name, policy) for name, training in trainings.items() for policy in training.trail
        ]
        extreme, *reports = self._validation_reports([teacher, *(policy for _, policy in tried)])
        budget = min(
            config.kl_budget or math.inf, (config.kl_budget_of_teacher or math.inf) * extreme.kl_old
        )
        scores = [report.scores["validation"].avg for report in reports]
        within = [place for place, report in enumerate(reports) if report.kl_old <= budget] or [0]
        best = max(within, key=lambda place: scores[place])
        alternative, student = tried[best]
        kept = [
            {"alternative": name, "step": policy.step, "score": score, "kl_old": report.kl_old}
            for (name, policy), score, report in zip(tried, scores, reports, strict=True)
        ]
        evidence = {
            "chosen": {"alternative": alternative, "step": student.step},
            "kl_budget": budget if math.isfinite(budget) else None,
            "kept": kept,
        }
        self.recorder.record_selection(evidence)
        return student

    def _validation_reports(self, policies: Sequence[PolicyRef]) -> list[EvalReport]:
        """Scores and KL on the validation samples, the same samples that `validate` draws."""
        calls = [
            StageCall(
                self._report_stage(policy),
                f"measure {policy.role} (step {policy.step}) on validation",
                "validation report",
            )
            for policy in policies
        ]
        return self.recorder.start(calls, phase="validation")()

    def _report_stage(self, policy: PolicyRef) -> EvaluatePolicy:
        return EvaluatePolicy(
            policy=policy,
            old=self.state.start,
            base=self.state.base,
            benchmarks={"validation": self.state.validation},
            sampling=self.context.config.evaluation.validation_sampling,
            seed=seed_for(self.context.config, 0, "validation"),
        )
