"""One iteration: a fixed batch, a teacher, a decision, a student (Sec. 3, 4.4); or an on-policy
stage (Fig. 8).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from prefect import flow
from prefect.states import Completed, State

from erpd_core.config import CampaignConfig, Strategy
from erpd_core.refs import Decision, EvalReport, Frozen, PolicyRef, RolloutRef, TrainingRef
from erpd_core.strategy import decide
from flows.steps.context import Known, Steps
from flows.steps.fixed_batch import FixedBatch, runs_of
from flows.steps.human_decision import Question, ask_here, evidence_text
from flows.steps.recorder import Answers, Desk
from flows.steps.selection import Measuring
from tasks.evaluation.signal_statistics import MeasureSignal
from tasks.execution.submit import StageRunner
from tasks.rollouts import outcomes
from tasks.training.online import TrainOnline
from tasks.training.student import DistillStudent, SignalPhase


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


class Undecided(Exception):
    """A person is to be asked, by whoever runs the iteration."""

    def __init__(self, question: Question) -> None:
        super().__init__(
            f"{question.campaign}: iteration {question.iteration} waits for a decision"
        )
        self.question = question


@flow(
    name="iteration",
    flow_run_name="iteration-{index}",
    task_runner=StageRunner(),
    validate_parameters=False,
)
def iteration(
    config: CampaignConfig, index: int, known: Known, campaign: str, asks: bool = True
) -> IterationResult | Question | State[Question] | None:
    """Run iteration `index` (1, 2, ...) of a campaign from `known.start`.

    The answer is its result; None when its decision is to stop; and, if it is not to ask a person
    itself, the question that is in its way.
    """
    desk = Desk.open(campaign, config)
    try:
        result = Iteration(Steps(config, index, known, desk), asks).run()
    except Undecided as undecided:
        return Completed(name="Waits", message=str(undecided), data=undecided.question)
    return result


class Iteration:
    """The steps of one iteration, in the order they are taken."""

    def __init__(self, steps: Steps, asks: bool = True) -> None:
        self.steps, self.measuring, self.asks = steps, Measuring(steps), asks
        self.config, self.known, self.desk, self.index = (
            steps.config,
            steps.known,
            steps.desk,
            steps.index,
        )

    def run(self) -> IterationResult | None:
        """The iteration's result; None when the decision is to stop, which is then what the
        registry says of it.
        """
        self.desk.registry.iteration(self.desk.campaign, self.index)
        if self.config.decision.fixed_for(self.index) == "online":
            decision = Decision(strategy="online", reason="fixed by the recipe")
            self.desk.record_decision(self.index, decision)
            return self._online(decision, None)
        batch = FixedBatch(self.steps)
        teacher, validation = self._teacher(batch)
        batch.teacher = teacher
        decision = self._decide(teacher, validation)
        if decision.strategy == "stop":
            self.measuring.evaluate({"teacher": teacher})()
            self._completed()
            return None
        if decision.strategy == "online":
            return self._online(decision, teacher)
        evaluation = self.measuring.evaluate({"teacher": teacher})  # beside the distillation
        student = teacher if decision.strategy == "none" else self._distil(batch, teacher, decision)
        if student.role != "student":
            self.steps.record_policies([student], "student")
        validating, evaluating = (
            self.measuring.validate([student], "student"),
            self.measuring.evaluate({"student": student}),
        )
        if self.config.evaluation.signal:
            self._measure_signal(batch, teacher, student)
        return self._result(
            decision, teacher, student, validating()[0], evaluation() | evaluating()
        )

    def _online(self, decision: Decision, teacher: PolicyRef | None) -> IterationResult:
        """An online stage. Without a teacher, its own policy stands for it."""
        student, validation = self._train_online()
        self.steps.record_policies([student], "student")
        reports = self.measuring.evaluate(
            {"teacher": teacher, "student": student} if teacher else {"student": student}
        )()
        return self._result(decision, teacher, student, validation, reports)

    def _result(
        self,
        decision: Decision,
        teacher: PolicyRef | None,
        student: PolicyRef,
        validation: RolloutRef,
        reports: dict[str, EvalReport],
    ) -> IterationResult:
        self._completed()
        return IterationResult(
            index=self.index,
            strategy=decision.strategy,
            decision=decision,
            teacher=reports.get("teacher", reports["student"]),
            student=reports["student"],
            seconds=self.steps.seconds,
            teacher_policy=teacher or student,
            student_policy=student,
            student_validation=validation,
        )

    def _completed(self) -> None:
        self.desk.registry.iteration(
            self.desk.campaign, self.index, "completed", self.steps.seconds
        )

    # ------------------------------------------------------------------------- teacher and decision

    def _teacher(self, batch: FixedBatch) -> tuple[PolicyRef, RolloutRef]:
        """The strong teacher, its step chosen on validation; a fixed strategy that never looks
        at it goes without.
        """
        fixed = self.config.decision.fixed_for(self.index)
        runs = (
            runs_of(self.config.distill.sides(fixed))
            if fixed in ("S1", "S2", "S3")
            else ["teacher"]
        )
        if "teacher" in runs or not runs or self.config.decision.teacher == "always":
            batch.train(["teacher", *runs])
            return self.measuring.best(batch.run("teacher"), "teacher")
        batch.train(runs)
        last = batch.run(runs[0]).last
        return last, self.measuring.validate([last], "unlearned teacher")()[0]

    def _decide(self, teacher: PolicyRef, validation: RolloutRef) -> Decision:
        read = self.desk.store
        decision = decide(
            self.config.decision,
            self.index,
            start=outcomes(read, self.known.start_validation),
            teacher=outcomes(read, validation),
            students={
                index: outcomes(read, ref) for index, ref in self.known.student_validations.items()
            },
            weak_available=self.config.weak_teacher is not None,
            online_available=self.config.online is not None,
            before=self.known.strategies,
        )
        decision = decision.model_copy(
            update={"evidence": {**decision.evidence, "teacher_step": teacher.step}}
        )
        if self.config.decision.mode == "ask":
            decision = self._answered() or self._ask(decision)
            settings = {
                name: decision.evidence["asked"].get(name) for name in ("steps", "kl_budget")
            }
            asked = {name: value for name, value in settings.items() if value is not None}
            self.config = self.config.model_copy(
                update={"distill": self.config.distill.model_copy(update=asked)}
            )
        self.desk.record_decision(self.index, decision)
        return decision

    def _answered(self) -> Decision | None:
        """What a person decided before this process was started."""
        decisions = (
            one.decision
            for one in self.desk.registry.iterations(self.desk.campaign)
            if one.index == self.index
        )
        return next((one for one in decisions if one and "asked" in one.evidence), None)

    def _ask(self, automatic: Decision) -> Decision:
        ways = {
            "S2": self.config.weak_teacher,
            "S3": automatic.evidence["teacher_minus_student"],
            "online": self.config.online,
        }
        possible = ("S1", *(name for name, way in ways.items() if way), "stop")
        question = Question(
            campaign=self.desk.campaign,
            iteration=self.index,
            automatic=automatic,
            possible=possible,
            evidence=evidence_text(automatic.evidence | self._distance(), automatic),
            seconds=self.config.runtime.answer_seconds,
        )
        self.desk.say(
            f"{self.index}: waits for your decision (`erpd decide`, or Resume in Prefect's UI); "
            f"automatic: {automatic.strategy}"
        )
        if not self.asks:
            raise Undecided(question)
        return ask_here(question)

    def _distance(self) -> dict[str, object]:
        """How far the campaign has moved from its base so far, of its last student."""
        reports = [
            one for one in self.desk.registry.reports(self.desk.campaign) if one.role == "student"
        ]
        return {"kl_base_so_far": reports[-1].report.kl_base} if reports else {}

    # -------------------------------------------------------------------------------------- student

    def _distil(self, batch: FixedBatch, teacher: PolicyRef, decision: Decision) -> PolicyRef:
        """Distil every alternative of the strategy; of several, or of several kept steps,
        validation chooses the student.
        """
        config = self.config.distill
        strategy: Strategy = decision.strategy  # type: ignore[assignment]
        alternatives = batch.phases(config.alternatives(strategy), config.steps, decision)
        begun = {
            name: self._distillation(batch, name, phases, strategy)
            for name, phases in alternatives.items()
        }
        trainings: dict[str, TrainingRef] = {}
        for name, answers in begun.items():
            (trainings[name],) = answers()
            self.steps.keep_track(
                _called(name).replace(" ", "-"), trainings[name], {"strategy": strategy}
            )
        if config.select == "validation" or len(trainings) > 1:
            student = self._choose(teacher, trainings)
        else:
            student = next(iter(trainings.values())).last
        others = [
            policy
            for training in trainings.values()
            for policy in training.trail
            if policy != student
        ]
        # the last one recorded gets the alias
        self.steps.record_policies([*others, student], "student")
        return student

    def _distillation(
        self, batch: FixedBatch, name: str, phases: tuple[SignalPhase, ...], strategy: Strategy
    ) -> Answers:
        config = self.config.distill
        stage = DistillStudent(
            init=self.known.start,
            rollouts=batch.rollouts,
            old=batch.old,
            role="student",
            seed=self.steps.seed("distill"),
            loss=config.loss,
            optimizer=config.optimizer,
            minibatch=config.minibatch,
            keep=config.keep,
            phases=phases,
            kl_stop=config.kl_stop,
        )
        return self.steps.start(
            "distill",
            "distill",
            [(stage, f"distil the {_called(name)} ({strategy})", f"{_called(name)} training")],
        )

    def _choose(self, teacher: PolicyRef, trainings: Mapping[str, TrainingRef]) -> PolicyRef:
        """The kept student with the highest validation score within the KL budget, of equals the
        earliest; the first if none is within.
        """
        config = self.config.distill
        tried = [
            (name, policy) for name, training in trainings.items() for policy in training.trail
        ]
        extreme, *reports = self.measuring.on_validation(
            [teacher, *(policy for _, policy in tried)]
        )
        budget = min(
            config.kl_budget or math.inf, (config.kl_budget_of_teacher or math.inf) * extreme.kl_old
        )
        score = [report.scores["validation"].avg for report in reports]
        within = [place for place, report in enumerate(reports) if report.kl_old <= budget] or [0]
        best = max(within, key=lambda place: score[place])
        kept = [
            {
                "alternative": name,
                "step": policy.step,
                "score": score[place],
                "kl_old": reports[place].kl_old,
            }
            for place, (name, policy) in enumerate(tried)
        ]
        chosen = {"alternative": tried[best][0], "step": tried[best][1].step}
        evidence = {
            "chosen": chosen,
            "kl_budget": budget if math.isfinite(budget) else None,
            "kept": kept,
        }
        self.desk.record_selection(self.index, evidence)
        return tried[best][1]

    def _measure_signal(self, batch: FixedBatch, teacher: PolicyRef, student: PolicyRef) -> None:
        """How far the student followed the teacher on the fixed batch (Fig. 7, Fig. 10)."""
        measured = {
            "score the batch under the teacher": teacher,
            "score the batch under the student": student,
        }
        columns = batch.columns(measured)
        stage = MeasureSignal(
            rollouts=batch.rollouts, old=batch.old, teacher=columns[0], student=columns[1]
        )
        self.steps.ask(
            "score", "score", stage, "measure what the student made of its signal", "signal"
        )

    # ------------------------------------------------------------------------------------ on policy

    def _train_online(self) -> tuple[PolicyRef, RolloutRef]:
        """On-policy training from the start (Fig. 8); the kept step that validates best, and its
        validation.
        """
        config = self.config.online
        assert config is not None, "the config checks that online stages have their section"
        stage = TrainOnline(
            init=self.known.start,
            problems=self.steps.prompts(),
            config=config,
            seed=self.steps.seed("online"),
        )
        training: TrainingRef = self.steps.ask(
            "train", "online", stage, f"train on policy ({config.steps} steps)", "online training"
        )
        self.steps.record_policies(training.trail, "online")
        self.steps.keep_track("online", training, {"loss": config.loss.kind})
        return self.measuring.best(training, "online")


def _called(alternative: str) -> str:
    """What the student of an alternative is called; a single one has the name ""."""
    return f"student {alternative}".rstrip()
