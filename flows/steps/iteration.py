"""One iteration: a fixed batch, a teacher, a decision and a student (Sec. 3, 4.4).

An iteration may be an on-policy stage instead (Fig. 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from prefect import flow
from prefect.states import Completed, State

from erpd_core.config import CampaignConfig, Strategy
from erpd_core.refs import Decision, EvalReport, Frozen, PolicyRef, RolloutRef, TrainingRef
from erpd_core.schedule import first_runs, validates_students
from erpd_core.strategy import decide
from flows.steps.context import CampaignState, IterationContext
from flows.steps.fixed_batch import FixedBatch
from flows.steps.human_decision import DecisionRequest, ask_here, evidence_text
from flows.steps.recorder import CampaignRecorder, PendingResults, StageCall
from flows.steps.selection import Selection
from tasks.evaluation.signal_statistics import MeasureSignal
from tasks.execution.submit import StageRunner
from tasks.rollouts import outcomes
from tasks.training.online import TrainOnline
from tasks.training.student import DistillStudent, SignalPhase


class IterationResult(Frozen):
    """An iteration's entry in the JSON of `erpd run`, with the policies it made."""

    index: int
    strategy: str
    decision: Decision
    teacher: EvalReport
    student: EvalReport
    seconds: dict[str, float]
    """Phase -> seconds of work."""
    teacher_policy: PolicyRef
    student_policy: PolicyRef
    student_validation: RolloutRef


class Undecided(Exception):
    """Raised when the iteration needs a user's decision and its caller has to ask for it."""

    def __init__(self, request: DecisionRequest) -> None:
        super().__init__(f"{request.campaign}: iteration {request.iteration} waits for a decision")
        self.request = request


@flow(
    name="iteration",
    flow_run_name="iteration-{index}",
    task_runner=StageRunner(),
    validate_parameters=False,
)
def run_iteration(
    config: CampaignConfig, index: int, state: CampaignState, campaign: str, asks: bool = True
) -> IterationResult | DecisionRequest | State[DecisionRequest] | None:
    """Run iteration `index` (1, 2, ...) of a campaign from `state.start`, as a Prefect flow.

    **Arguments:**
        asks: Whether the flow may ask a user itself; otherwise it returns the request.
    **Returns:** The result; None if the decision is to stop; the request if a user has to decide.
    """
    recorder = CampaignRecorder.open(campaign, config, index)
    try:
        return Iteration(IterationContext(config, index, state, recorder), asks).run()
    except Undecided as undecided:
        return Completed(name="Waits", message=str(undecided), data=undecided.request)


class Iteration:
    """The steps of one iteration, in the order they are taken."""

    def __init__(self, context: IterationContext, asks: bool = True) -> None:
        self.context, self.asks = context, asks
        self.index, self.state, self.recorder = context.index, context.state, context.recorder
        self.selection = Selection(context)

    @property
    def config(self) -> CampaignConfig:
        return self.context.config

    def run(self) -> IterationResult | None:
        """Run the iteration. Returns None if the decision is to stop."""
        self.recorder.registry.iteration(self.recorder.campaign, self.index)
        if self.config.decision.fixed_for(self.index) == "online":
            decision = Decision(strategy="online", reason="fixed by the recipe")
            self.recorder.record_decision(decision)
            return self._online(decision, None)
        batch = FixedBatch.sample(self.context)
        teacher, validation = self._train_teacher(batch)
        batch.teacher = teacher
        decision = self._decide(teacher, validation)
        if decision.strategy == "stop":
            self.selection.evaluate({"teacher": teacher})()
            self._complete()
            return None
        if decision.strategy == "online":
            return self._online(decision, teacher)
        teacher_reports = self.selection.evaluate({"teacher": teacher})  # parallel to distillation
        student = teacher if decision.strategy == "none" else self._distil(batch, teacher, decision)
        if student.role != "student":
            self.recorder.record_policies([student], "student")
        validations = self.selection.validate([student], "student")
        student_reports = self.selection.evaluate({"student": student})
        if self.config.evaluation.signal:
            self._measure_signal(batch, teacher, student)
        (student_validation,) = validations()
        reports = teacher_reports() | student_reports()
        return self._result(decision, teacher, student, student_validation, reports)

    def _online(self, decision: Decision, teacher: PolicyRef | None) -> IterationResult:
        """Run an on-policy stage. Without a teacher, the result has the student in its place."""
        student, validation = self._train_online()
        self.recorder.record_policies([student], "student")
        policies = {"teacher": teacher, "student": student} if teacher else {"student": student}
        reports = self.selection.evaluate(policies)()
        return self._result(decision, teacher, student, validation, reports)

    def _result(
        self,
        decision: Decision,
        teacher: PolicyRef | None,
        student: PolicyRef,
        validation: RolloutRef,
        reports: Mapping[str, EvalReport],
    ) -> IterationResult:
        self._complete()
        return IterationResult(
            index=self.index,
            strategy=decision.strategy,
            decision=decision,
            teacher=reports.get("teacher", reports["student"]),
            student=reports["student"],
            seconds=self.recorder.seconds,
            teacher_policy=teacher or student,
            student_policy=student,
            student_validation=validation,
        )

    def _complete(self) -> None:
        self.recorder.registry.iteration(
            self.recorder.campaign, self.index, "completed", self.recorder.seconds
        )

    # ------------------------------------------------------------------------- teacher and decision

    def _train_teacher(self, batch: FixedBatch) -> tuple[PolicyRef, RolloutRef]:
        """The teacher at the step with the best validation score, and its validation samples.

        A fixed strategy that does not use the teacher trains only its own runs.
        """
        runs = first_runs(self.config, self.config.decision.fixed_for(self.index))
        batch.train(runs)
        if "teacher" in runs:
            return self.selection.best(batch.run("teacher"), "teacher")
        last = batch.run(runs[0]).last
        (validation,) = self.selection.validate([last], "unlearned teacher")()
        return last, validation

    def _decide(self, teacher: PolicyRef, validation: RolloutRef) -> Decision:
        store = self.recorder.store
        students = self.state.student_validations
        decision = decide(
            self.config.decision,
            self.index,
            start=outcomes(store, self.state.start_validation),
            teacher=outcomes(store, validation),
            students={index: outcomes(store, ref) for index, ref in students.items()},
            weak_available=self.config.weak_teacher is not None,
            online_available=self.config.online is not None,
            before=self.state.strategies,
        )
        evidence = {**decision.evidence, "teacher_step": teacher.step}
        decision = decision.model_copy(update={"evidence": evidence})
        if self.config.decision.mode == "ask":
            decision = self._answered() or self._ask(decision)
            self._apply_settings(decision.evidence["asked"])
        self.recorder.record_decision(decision)
        return decision

    def _apply_settings(self, asked: Mapping[str, object]) -> None:
        """Replace the recipe's distillation settings by those a user gave with the decision."""
        settings = {name: asked.get(name) for name in ("steps", "kl_budget")}
        given = {name: value for name, value in settings.items() if value is not None}
        distill = self.config.distill.model_copy(update=given)
        self.context = replace(
            self.context, config=self.config.model_copy(update={"distill": distill})
        )
        self.selection = Selection(self.context)

    def _answered(self) -> Decision | None:
        """The decision that a user made before this process was started, if any."""
        iterations = self.recorder.registry.iterations(self.recorder.campaign)
        decisions = (row.decision for row in iterations if row.index == self.index)
        return next((made for made in decisions if made and "asked" in made.evidence), None)

    def _ask(self, automatic: Decision) -> Decision:
        available = {
            "S2": self.config.weak_teacher,
            "S3": automatic.evidence["teacher_minus_student"],
            "online": self.config.online,
        }
        request = DecisionRequest(
            campaign=self.recorder.campaign,
            iteration=self.index,
            automatic=automatic,
            possible=("S1", *(name for name, basis in available.items() if basis), "stop"),
            evidence=evidence_text(automatic.evidence | self._distance(), automatic),
            seconds=self.config.runtime.answer_seconds,
        )
        self.recorder.say(
            f"{self.index}: waits for your decision (`erpd decide`, or Resume in Prefect's UI); "
            f"automatic: {automatic.strategy}"
        )
        if not self.asks:
            raise Undecided(request)
        return ask_here(request)

    def _distance(self) -> dict[str, object]:
        """The KL of the campaign's last student from the base."""
        reports = self.recorder.registry.reports(self.recorder.campaign)
        students = [row for row in reports if row.role == "student"]
        return {"kl_base_so_far": students[-1].report.kl_base} if students else {}

    # -------------------------------------------------------------------------------------- student

    def _distil(self, batch: FixedBatch, teacher: PolicyRef, decision: Decision) -> PolicyRef:
        """Distil every alternative of the strategy, and choose the student among them."""
        config = self.config.distill
        strategy: Strategy = decision.strategy  # type: ignore[assignment]
        alternatives = batch.phases(config.alternatives(strategy), config.steps, decision)
        pending = {
            name: self._start_distillation(batch, name, phases, strategy)
            for name, phases in alternatives.items()
        }
        trainings: dict[str, TrainingRef] = {}
        for name, results in pending.items():
            (trainings[name],) = results()
            run = _student_name(name).replace(" ", "-")
            self.recorder.record_training(run, trainings[name], {"strategy": strategy})
        if validates_students(config, strategy):
            student = self.selection.best_student(teacher, trainings)
        else:
            student = next(iter(trainings.values())).last
        kept = [policy for training in trainings.values() for policy in training.trail]
        others = [policy for policy in kept if policy != student]
        # The last one recorded gets MLflow's alias.
        self.recorder.record_policies([*others, student], "student")
        return student

    def _start_distillation(
        self, batch: FixedBatch, name: str, phases: tuple[SignalPhase, ...], strategy: Strategy
    ) -> PendingResults[TrainingRef]:
        config = self.config.distill
        stage = DistillStudent(
            init=self.state.start,
            rollouts=batch.rollouts,
            old=batch.old,
            role="student",
            seed=self.context.seed("distill"),
            loss=config.loss,
            optimizer=config.optimizer,
            minibatch=config.minibatch,
            keep=config.keep,
            phases=phases,
            kl_stop=config.kl_stop,
        )
        student = _student_name(name)
        call = StageCall(stage, f"distil the {student} ({strategy})", f"{student} training")
        return self.recorder.start([call])

    def _measure_signal(self, batch: FixedBatch, teacher: PolicyRef, student: PolicyRef) -> None:
        """Measure how far the student followed the teacher on the fixed batch (Fig. 7, Fig. 10)."""
        columns = batch.columns(
            {
                "score the batch under the teacher": teacher,
                "score the batch under the student": student,
            }
        )
        stage = MeasureSignal(
            rollouts=batch.rollouts, old=batch.old, teacher=columns[0], student=columns[1]
        )
        self.recorder.run(stage, "measure what the student made of its signal", "signal")

    # ------------------------------------------------------------------------------------ on policy

    def _train_online(self) -> tuple[PolicyRef, RolloutRef]:
        """Train on policy from the start (Fig. 8).

        **Returns:** The policy with the best validation score, and its validation samples.
        """
        config = self.config.online
        assert config is not None, "the config checks that online stages have their section"
        stage = TrainOnline(
            init=self.state.start,
            problems=self.context.draw_prompts(),
            config=config,
            seed=self.context.seed("online"),
        )
        label = f"train on policy ({config.steps} steps)"
        training = self.recorder.run(stage, label, "online training")
        self.recorder.record_policies(training.trail, "online")
        self.recorder.record_training("online", training, {"loss": config.loss.kind})
        return self.selection.best(training, "online")


def _student_name(alternative: str) -> str:
    """The name of an alternative's student; a single alternative has the name ""."""
    return f"student {alternative}".rstrip()
