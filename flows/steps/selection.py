"""Selection of policies on the validation problems, and their evaluation on the benchmarks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from erpd_core.config import CampaignConfig
from erpd_core.refs import EvalReport, PolicyRef, ProblemsRef, RolloutRef, TrainingRef
from erpd_core.scoring import avg_at_k
from flows.steps.context import IterationContext, seed_for
from flows.steps.recorder import PendingResults, StageCall
from tasks.evaluation.evaluate import EvaluatePolicy
from tasks.rollouts import SampleRollouts, outcomes


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


def evaluation_stage(
    config: CampaignConfig,
    policy: PolicyRef,
    old: PolicyRef,
    base: PolicyRef,
    benchmarks: Mapping[str, ProblemsRef],
) -> EvaluatePolicy:
    """The stage that evaluates a policy on every benchmark; one seed for all policies."""
    return EvaluatePolicy(
        policy=policy,
        old=old,
        base=base,
        benchmarks=dict(benchmarks),
        sampling=config.evaluation.sampling,
        samples=config.evaluation.samples,
        judge=config.evaluation.judge,
        seed=seed_for(config, 0, "benchmarks"),
    )


class Selection:
    """Validates and evaluates the policies of one iteration.

    Choices depend on validation scores only, never on the benchmarks.
    """

    def __init__(self, context: IterationContext) -> None:
        self.context, self.state, self.recorder = context, context.state, context.recorder

    # ----------------------------------------------------------------------------------- validation

    def best(self, training: TrainingRef, role: str) -> tuple[PolicyRef, RolloutRef]:
        """The kept policy with the highest validation score, and its validation samples.

        Ties go to the earliest step.
        """
        validations = self.validate(training.trail, role)()
        scores = [avg_at_k(outcomes(self.recorder.store, ref)).avg for ref in validations]
        best = scores.index(max(scores))
        return training.trail[best], validations[best]

    def validate(self, policies: Sequence[PolicyRef], role: str) -> PendingResults[RolloutRef]:
        """Start sampling policies on the validation problems."""
        calls = [
            StageCall(
                validation_stage(self.context.config, policy, self.state.validation),
                f"validate {role} (step {policy.step})",
                f"{role} validation",
            )
            for policy in policies
        ]
        return self.recorder.start(calls, phase="validation")

    def best_student(self, teacher: PolicyRef, trainings: Mapping[str, TrainingRef]) -> PolicyRef:
        """The kept student with the highest validation score within the KL budget.

        Ties go to the earliest. If none is within the budget, the first one is taken.

        **Arguments:**
            teacher: `kl_budget_of_teacher` is a share of its KL to the start.
            trainings: Name of the alternative -> its distillation.
        """
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
                EvaluatePolicy(
                    policy=policy,
                    old=self.state.start,
                    base=self.state.base,
                    benchmarks={"validation": self.state.validation},
                    sampling=self.context.config.evaluation.validation_sampling,
                    seed=seed_for(self.context.config, 0, "validation"),
                ),
                f"measure {policy.role} (step {policy.step}) on validation",
                "validation report",
            )
            for policy in policies
        ]
        return self.recorder.start(calls, phase="validation")()

    # ----------------------------------------------------------------------------------- benchmarks

    def evaluate(self, policies: Mapping[str, PolicyRef]) -> Callable[[], dict[str, EvalReport]]:
        """Start evaluating policies on the benchmarks.

        **Arguments:**
            policies: Role -> policy.
        **Returns:** A function that waits, records the reports, and returns role -> report.
        """
        stages = {
            role: evaluation_stage(
                self.context.config,
                policy,
                self.state.start,
                self.state.base,
                self.state.benchmarks,
            )
            for role, policy in policies.items()
        }
        results = self.recorder.start(
            [
                StageCall(stage, f"evaluate {role}", f"{role} evaluation")
                for role, stage in stages.items()
            ]
        )

        def reports() -> dict[str, EvalReport]:
            role_reports = dict(zip(policies, results(), strict=True))
            for role, report in role_reports.items():
                self.recorder.record_report(role, report, stages[role])
            return role_reports

        return reports
