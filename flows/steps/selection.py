"""What an iteration measures: candidates on validation, which selection may look at, and its
outcome on the benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from erpd_core.refs import EvalReport, PolicyRef, RolloutRef, TrainingRef
from erpd_core.scoring import avg_at_k
from flows.steps.context import Steps, seed_for
from flows.steps.recorder import Answers
from tasks.evaluation.evaluate import EvaluatePolicy
from tasks.rollouts import SampleRollouts, outcomes


class Measuring:
    """Validation and evaluation of one iteration's policies."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def best(self, training: TrainingRef, role: str) -> tuple[PolicyRef, RolloutRef]:
        """The kept policy with the highest validation score, of equals the earliest, and its
        validation.
        """
        validations = self.validate(training.trail, role)()
        scores = [avg_at_k(outcomes(self.steps.desk.store, ref)).avg for ref in validations]
        best = scores.index(max(scores))
        return training.trail[best], validations[best]

    def validate(self, policies: Sequence[PolicyRef], role: str) -> Answers:
        """Samples on the validation problems, begun; call what is returned for them."""
        stages = [
            SampleRollouts(
                policy=policy,
                problems=self.steps.known.validation,
                sampling=self.steps.config.evaluation.validation_sampling,
                seed=seed_for(self.steps.config, 0, "validation"),
            )
            for policy in policies
        ]
        asked = [
            (stage, f"validate {role} (step {stage.policy.step})", f"{role} validation")
            for stage in stages
        ]
        return self.steps.start("rollouts", "validation", asked)

    def on_validation(self, policies: Sequence[PolicyRef]) -> list[EvalReport]:
        """Scores and KL on the validation samples (the same samples that `validate` draws)."""
        stages = [
            EvaluatePolicy(
                policy=policy,
                old=self.steps.known.start,
                base=self.steps.known.base,
                benchmarks={"validation": self.steps.known.validation},
                sampling=self.steps.config.evaluation.validation_sampling,
                seed=seed_for(self.steps.config, 0, "validation"),
            )
            for policy in policies
        ]
        asked = [
            (
                stage,
                f"measure {stage.policy.role} (step {stage.policy.step}) on validation",
                "validation report",
            )
            for stage in stages
        ]
        return self.steps.ask_all("evaluate", "validation", asked)

    def evaluate(self, policies: Mapping[str, PolicyRef]) -> Callable[[], dict[str, EvalReport]]:
        """Evaluations on the benchmarks, begun; call what is returned for role -> report,
        recorded.
        """
        stages = {role: self._evaluation(policy) for role, policy in policies.items()}
        answers = self.steps.start(
            "evaluate",
            "evaluate",
            [(stage, f"evaluate {role}", f"{role} evaluation") for role, stage in stages.items()],
        )

        def reports() -> dict[str, EvalReport]:
            found = dict(zip(policies, answers(), strict=True))
            for role, report in found.items():
                self.steps.desk.record_report(self.steps.index, role, report, stages[role])
            return found

        return reports

    def _evaluation(self, policy: PolicyRef) -> EvaluatePolicy:
        evaluation = self.steps.config.evaluation
        return EvaluatePolicy(
            policy=policy,
            old=self.steps.known.start,
            base=self.steps.known.base,
            benchmarks=self.steps.known.benchmarks,
            sampling=evaluation.sampling,
            samples=evaluation.samples,
            judge=evaluation.judge,
            seed=seed_for(self.steps.config, 0, "benchmarks"),
        )
