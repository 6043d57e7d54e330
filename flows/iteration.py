"""One iteration: a fixed batch, a teacher, a decision, a student (Sec. 3, 4.4)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from prefect import flow

from erpd_core.config import CampaignConfig, DistillPhase, Strategy, TrainConfig
from erpd_core.refs import Decision, EvalReport, Frozen, LogprobRef, PolicyRef, ProblemsRef, RolloutRef, TrainingRef
from erpd_core.scoring import avg_at_k, earliest_unbeaten
from erpd_core.strategy import decide
from flows.stages import Desk
from tasks.datasets import draw_problems
from tasks.evaluate import EvaluatePolicy
from tasks.rollouts import SampleRollouts, outcomes
from tasks.score import ScoreRollouts
from tasks.train import DistillStudent, SignalPhase, TrainTeacher, load_records


class IterationResult(Frozen):
    """The contract's entry of one iteration, with the policies it led to."""

    index: int
    strategy: str
    decision: Decision
    teacher: EvalReport
    student: EvalReport
    seconds: dict[str, float]
    teacher_policy: PolicyRef
    student_policy: PolicyRef
    student_validation: RolloutRef


class Known(Frozen):
    """What a campaign knows when an iteration begins."""

    base: PolicyRef
    start: PolicyRef
    start_validation: RolloutRef
    students: dict[int, PolicyRef]
    """Students of earlier iterations; the last one is the start."""
    student_validations: dict[int, RolloutRef]
    validation: ProblemsRef
    benchmarks: dict[str, ProblemsRef]


def seed_for(config: CampaignConfig, iteration: int, purpose: str) -> int:
    """A seed of its own for every purpose, so that adding one changes no other."""
    return int.from_bytes(hashlib.sha256(f"{config.seed}/{iteration}/{purpose}".encode()).digest()[:4], "big")


@flow(name="iteration", flow_run_name="iteration-{index}", validate_parameters=False)
def iteration(config: CampaignConfig, index: int, known: Known, campaign: str) -> IterationResult | None:
    """Run iteration `index` (1, 2, ...) of a campaign from `known.start`; None when its decision is to stop."""
    return Iteration(config, index, known, Desk.open(campaign, config)).run()


class Iteration:
    """The steps of one iteration, in the order they are taken."""

    def __init__(self, config: CampaignConfig, index: int, known: Known, desk: Desk) -> None:
        self.config, self.index, self.known, self.desk = config, index, known, desk
        self.seconds: dict[str, float] = {}

    def run(self) -> IterationResult | None:
        """The iteration's result; None when the decision is to stop, which is then what the registry says of it."""
        self.desk.registry.iteration(self.desk.campaign, self.index)
        self._sample_batch()
        self._train_teachers()
        decision = self._decide()
        if decision.strategy == "stop":
            self._evaluate({"teacher": self.teacher})
            self.desk.registry.iteration(self.desk.campaign, self.index, "completed", self.seconds)
            return None
        student = self._distil(decision)
        reports = self._evaluate({"teacher": self.teacher, "student": student})
        validation = self._validate([student], "student")[0]
        self.desk.registry.iteration(self.desk.campaign, self.index, "completed", self.seconds)
        return IterationResult(
            index=self.index,
            strategy=decision.strategy,
            decision=decision,
            teacher=reports["teacher"],
            student=reports["student"],
            seconds=self.seconds,
            teacher_policy=self.teacher,
            student_policy=student,
            student_validation=validation,
        )

    # ------------------------------------------------------------------------------------------------------- the fixed batch

    def _sample_batch(self) -> None:
        prompts = draw_problems("prompts", self.config.prompts, seed_for(self.config, self.index, "prompts"))
        problems = self._ask("problems", prompts, "draw prompts", "prompts")
        sampling = SampleRollouts(
            policy=self.known.start,
            problems=problems,
            sampling=self.config.sampling,
            seed=seed_for(self.config, self.index, "rollouts"),
        )
        self.batch: RolloutRef = self._ask("rollouts", sampling, "sample the fixed batch", "rollouts")
        self.old = self._column(self.known.start, "score the batch under old")
        self._spend("rollouts", sampling)

    # -------------------------------------------------------------------------------------------------------------- teachers

    def _train_teachers(self) -> None:
        """The strong teacher, its step chosen on validation; a fixed strategy 2 that never looks at it goes without."""
        self.strong: TrainingRef | None = None
        self.weak: TrainingRef | None = None
        fixed = self.config.decision.fixed_for(self.index)
        if self.config.decision.mode == "auto" or "teacher" in _runs(self.config.distill.phases(fixed)):
            self.strong = self._train(self.config.teacher, "teacher")
            self.teacher, self.teacher_validation = self._best(self.strong, "teacher")
        else:
            self._train_weak()
            assert self.weak is not None
            self.teacher = self.weak.last
            self.teacher_validation = self._validate([self.teacher], "unlearned teacher")[0]

    def _train_weak(self) -> None:
        if self.weak is None:
            assert self.config.weak_teacher is not None, "the config checks that strategy 2 has its section"
            self.weak = self._train(self.config.weak_teacher, "unlearned")

    def _train(self, config: TrainConfig, role: Any) -> TrainingRef:
        stage = TrainTeacher(
            init=self.known.start,
            rollouts=self.batch,
            old=self.old,
            role=role,
            config=config,
            seed=seed_for(self.config, self.index, role),
        )
        training: TrainingRef = self._ask("train", stage, f"train {role} ({config.loss.kind}, {config.steps} steps)", f"{role} training")
        self._spend("teacher", stage)
        for policy in training.trail:
            self.desk.record_policy(policy, self.index, role)
        self._track(f"{role}", training, {"loss": config.loss.kind})
        return training

    # -------------------------------------------------------------------------------------------------------------- decision

    def _decide(self) -> Decision:
        read = self.desk.store
        decision = decide(
            self.config.decision,
            self.index,
            start=outcomes(read, self.known.start_validation),
            teacher=outcomes(read, self.teacher_validation),
            students={index: outcomes(read, ref) for index, ref in self.known.student_validations.items()},
            weak_available=self.config.weak_teacher is not None,
        )
        decision = decision.model_copy(update={"evidence": {**decision.evidence, "teacher_step": self.teacher.step}})
        self.desk.record_decision(self.index, decision)
        return decision

    # --------------------------------------------------------------------------------------------------------------- student

    def _distil(self, decision: Decision) -> PolicyRef:
        config = self.config.distill
        strategy: Strategy = decision.strategy  # type: ignore[assignment]
        if strategy == "S2":
            self._train_weak()
        phases = tuple(self._phase(phase, decision) for phase in config.phases(strategy))
        stage = DistillStudent(
            init=self.known.start,
            rollouts=self.batch,
            old=self.old,
            role="student",
            seed=seed_for(self.config, self.index, "distill"),
            loss=config.loss,
            optimizer=config.optimizer,
            minibatch=config.minibatch,
            keep=config.keep,
            phases=phases,
        )
        training: TrainingRef = self._ask("distill", stage, f"distil the student ({strategy})", "student training")
        self._spend("distill", stage)
        self._track("student", training, {"strategy": strategy})
        student = self._thriftiest(training) if config.select == "validation" else training.last
        for policy in [*(one for one in training.trail if one != student), student]:  # the last one recorded gets the alias
            self.desk.record_policy(policy, self.index, "student")
        return student

    def _phase(self, phase: DistillPhase, decision: Decision) -> SignalPhase:
        sides = {}
        for name, side in (("numerator", phase.signal.numerator), ("denominator", phase.signal.denominator)):
            if side.startswith("student:") and "student" in decision.evidence:
                side = f"student:{decision.evidence['student']}"
            sides[name] = self._side(side)
        return SignalPhase(signal=phase.signal, steps=phase.steps or self.config.distill.steps, **sides)

    def _side(self, side: str) -> LogprobRef | None:
        """The column of one side of a signal (see `SignalSpec`)."""
        run, _, step = side.partition("@")
        if run == "none":
            return None
        if run == "old":
            return self.old
        if run == "base":
            policy = self.known.base
        elif run.startswith("student:"):
            number = int(run.removeprefix("student:"))
            if number not in self.known.students:
                known = sorted(self.known.students) or "none yet"
                raise ValueError(f"iteration {self.index}: {side} is not there (students of iterations: {known}); use another strategy")
            policy = self.known.students[number]
        elif run == "teacher":
            assert self.strong is not None
            policy = self.strong.at(int(step)) if step else self.teacher
        else:
            self._train_weak()
            assert self.weak is not None and self.config.weak_teacher is not None
            number = self.config.weak_teacher.unlearn_step if run == "unlearned" else int(step or self.weak.last.step)
            policy = self.weak.at(number)
        return self._column(policy, f"score the batch under {side}")

    # -------------------------------------------------------------------------------------------------------------- measuring

    def _best(self, training: TrainingRef, role: str) -> tuple[PolicyRef, RolloutRef]:
        """The kept policy with the highest validation score, of equals the earliest, and its validation."""
        validations = self._validate(training.trail, role)
        scores = [avg_at_k(outcomes(self.desk.store, ref)).avg for ref in validations]
        best = scores.index(max(scores))
        return training.trail[best], validations[best]

    def _thriftiest(self, training: TrainingRef) -> PolicyRef:
        """The earliest kept policy within the KL budget that no later one within it beats on validation beyond noise."""
        config = self.config.distill
        within = list(training.trail)
        evidence: dict[str, Any] = {"kept": [policy.step for policy in within]}
        if config.kl_budget or config.kl_budget_of_teacher:
            reports = self._validation_reports([self.teacher, *within])
            budget = min(config.kl_budget or math.inf, (config.kl_budget_of_teacher or math.inf) * reports[0].kl_old)
            spent = {policy: report.kl_old for policy, report in zip(within, reports[1:], strict=True)}
            within = [policy for policy in within if spent[policy] <= budget] or within[:1]
            evidence |= {"kl_budget": budget, "kl_old": {policy.step: kl for policy, kl in spent.items()}}
        tried = [outcomes(self.desk.store, ref) for ref in self._validate(within, "student")]
        student = within[earliest_unbeaten(tried, self.config.decision.z)]
        scores = {policy.step: avg_at_k(one).avg for policy, one in zip(within, tried, strict=True)}
        self.desk.record_selection(self.index, {"chosen": student.step, "validation": scores, **evidence})
        return student

    def _validation_reports(self, policies: Sequence[PolicyRef]) -> list[EvalReport]:
        """Scores and KL on the validation samples, which selection may look at (the same samples that `_validate` draws)."""
        validation = self.config.evaluation.validation_sampling
        stages = [
            EvaluatePolicy(
                policy=policy,
                old=self.known.start,
                base=self.known.base,
                benchmarks={"validation": self.known.validation},
                sampling=validation,
                seed=seed_for(self.config, 0, "validation"),
            )
            for policy in policies
        ]
        asked = [(stage, f"measure {stage.policy.role} (step {stage.policy.step}) on validation", "validation report") for stage in stages]
        reports: list[EvalReport] = self.desk.ask_all("evaluate", asked, self.index)
        self._spend("validation", *stages)
        return reports

    def _validate(self, policies: Any, role: str) -> list[RolloutRef]:
        stages = [
            SampleRollouts(
                policy=policy,
                problems=self.known.validation,
                sampling=self.config.evaluation.validation_sampling,
                seed=seed_for(self.config, 0, "validation"),
            )
            for policy in policies
        ]
        asked = [(stage, f"validate {role} (step {stage.policy.step})", f"{role} validation") for stage in stages]
        answers: list[RolloutRef] = self.desk.ask_all("rollouts", asked, self.index)
        self._spend("validation", *stages)
        return answers

    def _evaluate(self, policies: dict[str, PolicyRef]) -> dict[str, EvalReport]:
        stages = {role: self._evaluation(policy) for role, policy in policies.items()}
        asked = [(stage, f"evaluate {role}", f"{role} evaluation") for role, stage in stages.items()]
        reports = dict(zip(stages, self.desk.ask_all("evaluate", asked, self.index), strict=True))
        for role, report in reports.items():
            self.desk.record_report(self.index, role, report, policies[role])
        self._spend("evaluate", *stages.values())
        return reports

    def _evaluation(self, policy: PolicyRef) -> EvaluatePolicy:
        return EvaluatePolicy(
            policy=policy,
            old=self.known.start,
            base=self.known.base,
            benchmarks=self.known.benchmarks,
            sampling=self.config.evaluation.sampling,
            seed=seed_for(self.config, 0, "benchmarks"),
        )

    # ------------------------------------------------------------------------------------------------------------ small helps

    def _ask(self, verb: Any, stage: Any, label: str, role: str) -> Any:
        return self.desk.ask(verb, stage, label, self.index, role)

    def _column(self, policy: PolicyRef, label: str) -> LogprobRef:
        stage = ScoreRollouts(policy=policy, rollouts=self.batch)
        column: LogprobRef = self._ask("score", stage, label, "column")
        self._spend("score", stage)
        return column

    def _spend(self, phase: str, *stages: Any) -> None:
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + self.desk.seconds(*stages), 3)

    def _track(self, role: str, training: TrainingRef, tags: dict[str, str]) -> None:
        self.desk.track_training(self.index, role, load_records(self.desk.store, training), tags)


def _runs(phases: tuple[DistillPhase, ...]) -> set[str]:
    """The training runs that signals rest on."""
    return {side.partition("@")[0] for phase in phases for side in (phase.signal.numerator, phase.signal.denominator)}
