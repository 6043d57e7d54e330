"""One iteration: a fixed batch, a teacher, a decision and a student (Sec. 3, 4.4).

An iteration may be an on-policy stage instead (Fig. 8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from prefect import flow
from prefect.states import Completed, State

from erpd_core.config import CampaignConfig, RaceSelection, Strategy
from erpd_core.refs import Decision, Frozen, PolicyRef, TrainingRef
from erpd_core.schedule import first_runs, validates_students
from erpd_core.strategy import decide
from flows.steps.context import CampaignState, IterationContext
from flows.steps.evaluations import Evaluations
from flows.steps.fixed_batch import FixedBatch
from flows.steps.human_decision import DecisionRequest, ask_here, evidence_text
from flows.steps.racing import Racing
from flows.steps.recorder import PendingResults, StageCall
from flows.steps.selection import FullSelection, Selection
from tasks.evaluation.signal_statistics import MeasureSignal
from tasks.execution.submit import StageRunner
from tasks.training.online import TrainOnline
from tasks.training.student import DistillStudent, SignalPhase
from tasks.training.teacher import TrainTeacher


class IterationEnd(Frozen):
    """What an iteration has made; the evaluation of its policies may still run."""

    index: int
    decision: Decision
    teacher: PolicyRef | None
    """None in an on-policy stage without a teacher."""
    student: PolicyRef
    """The policy from which the next iteration starts."""
    seconds: dict[str, float]
    """Phase -> seconds of work, without evaluations."""


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
) -> IterationEnd | DecisionRequest | State[DecisionRequest]:
    """Run iteration `index` (1, 2, ...) of a campaign from `state.start`, as a Prefect flow.

    **Arguments:**
        asks: Whether the flow may ask a user itself; otherwise it returns the request.
    **Returns:** What it made; the request if a user has to decide.
    """
    evaluations = Evaluations.of(campaign)
    context = IterationContext(config, index, state, evaluations.recorder_of(index))
    try:
        return Iteration(context, evaluations, asks).run()
    except Undecided as undecided:
        return Completed(name="Waits", message=str(undecided), data=undecided.request)


class Iteration:
    """The steps of one iteration, in the order they are taken."""

    def __init__(
        self, context: IterationContext, evaluations: Evaluations, asks: bool = True
    ) -> None:
        self.context, self.evaluations, self.asks = context, evaluations, asks
        self.index, self.state, self.recorder = context.index, context.state, context.recorder
        self.selection = _selection(context)

    @property
    def config(self) -> CampaignConfig:
        return self.context.config

    def run(self) -> IterationEnd:
        """Run the iteration; its policies are evaluated in the background."""
        self.recorder.registry.iteration(self.recorder.campaign, self.index)
        if self.config.decision.fixed_for(self.index) == "online":
            decision = Decision(strategy="online", reason="fixed by the recipe")
            self.recorder.record_decision(decision)
            return self._online(decision, None)
        batch = FixedBatch.sample(self.context)
        teacher = batch.teacher = self._train_teacher(batch)
        decision = self._decide(teacher)
        self._evaluate("teacher", teacher)
        if decision.strategy == "stop":
            return self._end(decision, teacher, self.state.start)
        if decision.strategy == "online":
            return self._online(decision, teacher)
        student = teacher if decision.strategy == "none" else self._distil(batch, teacher, decision)
        if student.role != "student":
            self.recorder.record_policies([student], "student")
        self._evaluate("student", student)
        validated = self.selection.validate_chosen(student)
        if self.config.evaluation.signal:
            self._measure_signal(batch, teacher, student)
        validated()
        return self._end(decision, teacher, student)

    def _online(self, decision: Decision, teacher: PolicyRef | None) -> IterationEnd:
        student = self._train_online()
        self.recorder.record_policies([student], "student")
        self._evaluate("student", student)
        return self._end(decision, teacher, student)

    def _evaluate(self, role: str, policy: PolicyRef) -> None:
        self.evaluations.start(self.index, role, policy, self.state.start)

    def _end(
        self, decision: Decision, teacher: PolicyRef | None, student: PolicyRef
    ) -> IterationEnd:
        seconds = self.recorder.seconds
        return IterationEnd(
            index=self.index, decision=decision, teacher=teacher, student=student, seconds=seconds
        )

    # ------------------------------------------------------------------------- teacher and decision

    def _train_teacher(self, batch: FixedBatch) -> PolicyRef:
        """The teacher at the step that validation selects.

        A fixed strategy that does not use the teacher trains only its own runs.
        """
        runs = first_runs(self.config, self.config.decision.fixed_for(self.index))
        batch.train(runs, self._watch_teacher)
        if "teacher" in runs:
            return self.selection.best(batch.run("teacher"), "teacher")
        return batch.run(runs[0]).last

    def _watch_teacher(self, stage: TrainTeacher, role: str) -> Callable[[], None]:
        """Start validating the kept steps of the teacher while it trains."""
        return self.selection.validate_kept(stage, role) if role == "teacher" else lambda: None

    def _decide(self, teacher: PolicyRef) -> Decision:
        start, validation = self.selection.samples_for_decision(teacher)
        decision = decide(
            self.config.decision,
            self.index,
            start=start,
            teacher=validation,
            students=self.selection.outcomes_of(self.state.earlier_students),
            weak_available=self.config.weak_teacher is not None,
            online_available=self.config.online is not None,
            before=self.state.strategies,
            compare=self.selection.compare,
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
        self.selection = _selection(self.context)

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
        self.evaluations.wait()
        reports = self.recorder.registry.reports(self.recorder.campaign)
        students = [row for row in reports if row.role == "student"]
        return {"kl_base_so_far": students[-1].report.kl_base} if students else {}

    # -------------------------------------------------------------------------------------- student

    def _distil(self, batch: FixedBatch, teacher: PolicyRef, decision: Decision) -> PolicyRef:
        """Distil every alternative of the strategy, and choose the student among them."""
        config = self.config.distill
        strategy: Strategy = decision.strategy  # type: ignore[assignment]
        alternatives = batch.phases(config.alternatives(strategy), config.steps, decision)
        stages = {name: self._distillation(batch, phases) for name, phases in alternatives.items()}
        pending = {
            name: self._start_distillation(stage, name, strategy) for name, stage in stages.items()
        }
        trainings: dict[str, TrainingRef] = {}
        chooses = validates_students(config, strategy)
        for name, results in pending.items():
            look = self.selection.validate_kept(stages[name], "student")
            (trainings[name],) = results(look if chooses else lambda: None)
            run = _student_name(name).replace(" ", "-")
            self.recorder.record_training(run, trainings[name], {"strategy": strategy})
        if chooses:
            student = self.selection.best_student(teacher, trainings)
        else:
            student = next(iter(trainings.values())).last
        kept = [policy for training in trainings.values() for policy in training.trail]
        others = [policy for policy in kept if policy != student]
        # The last one recorded gets MLflow's alias.
        self.recorder.record_policies([*others, student], "student")
        return student

    def _distillation(self, batch: FixedBatch, phases: tuple[SignalPhase, ...]) -> DistillStudent:
        config = self.config.distill
        return DistillStudent(
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

    def _start_distillation(
        self, stage: DistillStudent, name: str, strategy: Strategy
    ) -> PendingResults[TrainingRef]:
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

    def _train_online(self) -> PolicyRef:
        """Train on policy from the start (Fig. 8); returns the step that validation selects."""
        config = self.config.online
        assert config is not None, "the config checks that online stages have their section"
        stage = TrainOnline(
            init=self.state.start,
            problems=self.context.draw_prompts(),
            config=config,
            seed=self.context.seed("online"),
        )
        label = f"train on policy ({config.steps} steps)"
        pending = self.recorder.start([StageCall(stage, label, "online training")])
        (training,) = pending(self.selection.validate_kept(stage, "online"))
        self.recorder.record_policies(training.trail, "online")
        self.recorder.record_training("online", training, {"loss": config.loss.kind})
        return self.selection.best(training, "online")


def _selection(context: IterationContext) -> Selection:
    raced = isinstance(context.config.evaluation.selection, RaceSelection)
    return Racing(context) if raced else FullSelection(context)


def _student_name(alternative: str) -> str:
    """The name of an alternative's student; a single alternative has the name ""."""
    return f"student {alternative}".rstrip()
