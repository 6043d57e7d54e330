"""One iteration: a fixed batch, a teacher, a decision, a student (Sec. 3, 4.4)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from prefect import flow

from erpd_core.config import PPO, CampaignConfig, DistillPhase, RunConfig, Strategy, TrainConfig
from erpd_core.refs import Decision, EvalReport, Frozen, LogprobRef, PolicyRef, ProblemsRef, Role, RolloutRef, TrainingRef, ValuesRef
from erpd_core.scoring import avg_at_k
from erpd_core.strategy import decide
from flows.stages import Desk
from tasks.critic import TrainCritic
from tasks.datasets import DrawProblems, draw_problems
from tasks.evaluate import EvaluatePolicy
from tasks.measure import MeasureSignal
from tasks.online import TrainOnline
from tasks.rollouts import SampleRollouts, outcomes
from tasks.score import ScoreRollouts
from tasks.train import DistillStudent, SidedSignal, SignalPhase, TrainTeacher
from tasks.training import load_records


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
    strategies: tuple[str, ...] = ()
    """What the iterations before this one did."""
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
        self.trained: dict[str, TrainingRef] = {}
        self.teacher: PolicyRef | None = None

    def run(self) -> IterationResult | None:
        """The iteration's result; None when the decision is to stop, which is then what the registry says of it."""
        self.desk.registry.iteration(self.desk.campaign, self.index)
        if self.config.decision.fixed_for(self.index) == "online":
            return self._result(self._fixed_online(), *self._train_online())
        self._sample_batch()
        teacher = self._train_teachers()
        decision = self._decide()
        if decision.strategy == "stop":
            self._evaluate({"teacher": teacher})
            self.desk.registry.iteration(self.desk.campaign, self.index, "completed", self.seconds)
            return None
        if decision.strategy == "online":
            return self._result(decision, *self._train_online())
        student = teacher if decision.strategy == "none" else self._distil(decision)
        if self.config.evaluation.signal:
            self._measure_signal(teacher, student)
        return self._result(decision, student, self._validate([student], "student")[0])

    def _result(self, decision: Decision, student: PolicyRef, validation: RolloutRef) -> IterationResult:
        """Evaluate what the iteration came to. An online stage without a teacher has its own policy stand for it."""
        if student.role != "student":
            self.desk.record_policy(student, self.index, "student")
        teacher = self.teacher or student
        reports = self._evaluate({"teacher": teacher, "student": student} if self.teacher else {"student": student})
        self.desk.registry.iteration(self.desk.campaign, self.index, "completed", self.seconds)
        return IterationResult(
            index=self.index,
            strategy=decision.strategy,
            decision=decision,
            teacher=reports.get("teacher", reports["student"]),
            student=reports["student"],
            seconds=self.seconds,
            teacher_policy=teacher,
            student_policy=student,
            student_validation=validation,
        )

    # -------------------------------------------------------------------------------------------------------------- on policy

    def _fixed_online(self) -> Decision:
        decision = Decision(strategy="online", reason="fixed by the recipe", alternatives={})
        self.desk.record_decision(self.index, decision)
        return decision

    def _train_online(self) -> tuple[PolicyRef, RolloutRef]:
        """On-policy training from the start (Fig. 8); the kept step that validates best, and its validation."""
        assert self.config.online is not None, "the config checks that online stages have their section"
        prompts = self._ask("problems", self._prompts(), "draw prompts", "prompts")
        stage = TrainOnline(
            init=self.known.start, problems=prompts, config=self.config.online, seed=seed_for(self.config, self.index, "online")
        )
        training: TrainingRef = self._ask("train", stage, f"train on policy ({self.config.online.steps} steps)", "online training")
        self._spend("online", stage)
        for policy in training.trail:
            self.desk.record_policy(policy, self.index, "online")
        self._track("online", training, {"loss": self.config.online.loss.kind})
        return self._best(training, "online")

    # ------------------------------------------------------------------------------------------------------- the fixed batch

    def _sample_batch(self) -> None:
        problems = self._ask("problems", self._prompts(), "draw prompts", "prompts")
        sampling = SampleRollouts(
            policy=self.known.start,
            problems=problems,
            sampling=self.config.sampling,
            seed=seed_for(self.config, self.index, "rollouts"),
        )
        self.batch: RolloutRef = self._ask("rollouts", sampling, "sample the fixed batch", "rollouts")
        self.old = self._column(self.known.start, "score the batch under old")
        self._spend("rollouts", sampling)

    def _prompts(self) -> DrawProblems:
        return draw_problems("prompts", self.config.prompts, seed_for(self.config, self.index, "prompts"))

    # -------------------------------------------------------------------------------------------------------------- teachers

    def _train_teachers(self) -> PolicyRef:
        """The strong teacher, its step chosen on validation; a fixed strategy that never looks at it goes without."""
        fixed = self.config.decision.fixed_for(self.index)
        runs = _runs(self.config.distill.sides(fixed)) if fixed in ("S1", "S2", "S3") else ["teacher"]
        if "teacher" in runs or not runs or self.config.decision.teacher == "always":
            self.teacher, self.teacher_validation = self._best(self._run("teacher"), "teacher")
        else:
            self.teacher = self._run(runs[0]).last
            self.teacher_validation = self._validate([self.teacher], "unlearned teacher")[0]
        return self.teacher

    def _run(self, name: str) -> TrainingRef:
        """A training run of the recipe on this batch, trained when it is first asked for."""
        if name not in self.trained:
            config = {"teacher": self.config.teacher, "weak": self.config.weak_teacher, **self.config.runs}[name]
            assert config is not None, "the config checks that every side has its run"
            role: Role = "teacher" if name == "teacher" else "unlearned" if name == "weak" else "extra"
            init = self._policy(config.init) if isinstance(config, RunConfig) else self.known.start
            self.trained[name] = self._train(config, init, role, name if role == "extra" else role)
        return self.trained[name]

    def _train(self, config: TrainConfig, init: PolicyRef, role: Role, name: str) -> TrainingRef:
        stage = TrainTeacher(
            init=init,
            rollouts=self.batch,
            old=self.old,
            role=role,
            config=config,
            seed=seed_for(self.config, self.index, name),
            values=self._values(config.loss, init) if isinstance(config.loss, PPO) else None,
        )
        training: TrainingRef = self._ask("train", stage, f"train {name} ({config.loss.kind}, {config.steps} steps)", f"{name} training")
        self._spend("teacher", stage)
        for policy in training.trail:
            self.desk.record_policy(policy, self.index, name)
        self._track(name, training, {"loss": config.loss.kind})
        return training

    def _values(self, loss: PPO, init: PolicyRef) -> ValuesRef:
        """PPO's critic, fitted to the batch first: what its advantages are made of."""
        stage = TrainCritic(init=init, rollouts=self.batch, config=loss.critic, seed=seed_for(self.config, self.index, "critic"))
        values: ValuesRef = self._ask("train", stage, f"train the critic ({loss.critic.steps} steps)", "critic training")
        self._spend("teacher", stage)
        self._track("critic", values, {"loss": "value"})
        return values

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
            online_available=self.config.online is not None,
            before=self.known.strategies,
        )
        assert self.teacher is not None
        decision = decision.model_copy(update={"evidence": {**decision.evidence, "teacher_step": self.teacher.step}})
        self.desk.record_decision(self.index, decision)
        return decision

    # --------------------------------------------------------------------------------------------------------------- student

    def _distil(self, decision: Decision) -> PolicyRef:
        """Distil every alternative of the strategy; of several, or of several kept steps, validation chooses the student."""
        config = self.config.distill
        strategy: Strategy = decision.strategy  # type: ignore[assignment]
        trainings = {name: self._distillation(name, phases, decision) for name, phases in config.alternatives(strategy).items()}
        if config.select == "validation" or len(trainings) > 1:
            student = self._choose(trainings)
        else:
            student = next(iter(trainings.values())).last
        trails = [policy for training in trainings.values() for policy in training.trail]
        for policy in [*(one for one in trails if one != student), student]:  # the last one recorded gets the alias
            self.desk.record_policy(policy, self.index, "student")
        return student

    def _distillation(self, name: str, phases: Sequence[DistillPhase], decision: Decision) -> TrainingRef:
        config = self.config.distill
        role = f"student {name}".rstrip()
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
            phases=tuple(self._phase(phase, decision) for phase in phases),
            kl_stop=config.kl_stop,
        )
        training: TrainingRef = self._ask("distill", stage, f"distil the {role} ({decision.strategy})", f"{role} training")
        self._spend("distill", stage)
        self._track(role.replace(" ", "-"), training, {"strategy": decision.strategy})
        return training

    def _phase(self, phase: DistillPhase, decision: Decision) -> SignalPhase:
        signals = [(phase.signal, 1.0), *((one.signal, one.weight) for one in phase.plus)]
        return SignalPhase(
            signals=tuple(
                SidedSignal(
                    spec=spec,
                    weight=weight,
                    numerator=self._side(spec.numerator, decision),
                    denominator=self._side(spec.denominator, decision),
                )
                for spec, weight in signals
            ),
            steps=phase.steps or self.config.distill.steps,
        )

    def _side(self, side: str, decision: Decision) -> LogprobRef | None:
        """The column of one side of a signal (see `SignalSpec`)."""
        if side in ("none", "live"):
            return None
        if side == "old":
            return self.old
        if side.startswith("student:") and "student" in decision.evidence:
            side = f"student:{decision.evidence['student']}"
        return self._column(self._policy(side), f"score the batch under {side}")

    def _policy(self, side: str) -> PolicyRef:
        """The policy that a side names."""
        run, _, step = side.partition("@")
        if run == "old":
            return self.known.start
        if run == "base":
            return self.known.base
        if run.startswith("student:"):
            number = int(run.removeprefix("student:"))
            if number not in self.known.students:
                known = sorted(self.known.students) or "none yet"
                raise ValueError(f"iteration {self.index}: {side} is not there (students of iterations: {known}); use another strategy")
            return self.known.students[number]
        if run == "unlearned":
            assert self.config.weak_teacher is not None, "the config checks that it is there"
            return self._run("weak").at(self.config.weak_teacher.unlearn_step)
        if run == "teacher" and not step and self.teacher is not None:
            return self.teacher
        training = self._run(run)
        return training.at(int(step)) if step else training.last

    # -------------------------------------------------------------------------------------------------------------- measuring

    def _best(self, training: TrainingRef, role: str) -> tuple[PolicyRef, RolloutRef]:
        """The kept policy with the highest validation score, of equals the earliest, and its validation."""
        validations = self._validate(training.trail, role)
        scores = [avg_at_k(outcomes(self.desk.store, ref)).avg for ref in validations]
        best = scores.index(max(scores))
        return training.trail[best], validations[best]

    def _choose(self, trainings: Mapping[str, TrainingRef]) -> PolicyRef:
        """The kept student with the highest validation score within the KL budget, of equals the earliest; the first if none is within."""
        config = self.config.distill
        tried = [(name, policy) for name, training in trainings.items() for policy in training.trail]
        teacher, *reports = self._validation_reports([self.teacher or self.known.start, *(policy for _, policy in tried)])
        budget = min(config.kl_budget or math.inf, (config.kl_budget_of_teacher or math.inf) * teacher.kl_old)
        score = [report.scores["validation"].avg for report in reports]
        within = [place for place, report in enumerate(reports) if report.kl_old <= budget] or [0]
        best = max(within, key=lambda place: score[place])
        self.desk.record_selection(
            self.index,
            {
                "chosen": {"alternative": tried[best][0], "step": tried[best][1].step},
                "kl_budget": budget if math.isfinite(budget) else None,
                "kept": [
                    {"alternative": name, "step": policy.step, "score": score[place], "kl_old": reports[place].kl_old}
                    for place, (name, policy) in enumerate(tried)
                ],
            },
        )
        return tried[best][1]

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

    def _measure_signal(self, teacher: PolicyRef, student: PolicyRef) -> None:
        """How far the student followed the teacher on the fixed batch (Fig. 7, Fig. 10)."""
        columns = [self._column(policy, f"score the batch under the {policy.role}") for policy in (teacher, student)]
        stage = MeasureSignal(rollouts=self.batch, old=self.old, teacher=columns[0], student=columns[1])
        self._ask("score", stage, "measure what the student made of its signal", "signal")

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
            samples=self.config.evaluation.samples,
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

    def _track(self, role: str, training: TrainingRef | ValuesRef, tags: dict[str, str]) -> None:
        self.desk.track_training(self.index, role, load_records(self.desk.store, training), tags)


def _runs(sides: Sequence[str]) -> list[str]:
    """The training runs that sides rest on, in order."""
    names = [side.partition("@")[0] for side in sides]
    return list(dict.fromkeys("weak" if name == "unlearned" else name for name in names if not _untrained(name)))


def _untrained(name: str) -> bool:
    return name in ("old", "base", "none", "live") or name.startswith("student:")
