"""A campaign: iterations of batch, teacher, signal and student (Sec. 4.4)."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from prefect import flow
from prefect.exceptions import Pause
from prefect.states import State

from erpd_core.config import CampaignConfig
from erpd_core.faults import Fault
from erpd_core.refs import Decision, EvalReport, Frozen, PolicyRef, ProblemsRef
from flows.live.progress import Live, log_line, name_run
from flows.live.publish import publish
from flows.recipes.forms import What
from flows.steps.context import CampaignState, seed_for
from flows.steps.evaluations import Evaluations
from flows.steps.hooks import HOOKS
from flows.steps.human_decision import DecisionRequest, ask_elsewhere, can_suspend
from flows.steps.iteration import IterationEnd, run_iteration
from flows.steps.preflight import PreparedCampaign, prepare_campaign
from flows.steps.recorder import CampaignRecorder, StageCall
from flows.steps.selection import validation_stage
from flows.steps.tracking_queue import TrackingQueue
from tasks.datasets import draw_problems
from tasks.execution.progress import session
from tasks.execution.submit import StageRunner
from tasks.host.home import events_path
from tasks.host.shutdown import stop_in, why_stopped
from tasks.registry import open_registry


class IterationResult(Frozen):
    """An iteration's entry in the JSON of `erpd run`."""

    index: int
    strategy: str
    decision: Decision
    teacher: EvalReport
    student: EvalReport
    seconds: dict[str, float]
    """Phase -> seconds of work."""


class CampaignResult(Frozen):
    """The result of a campaign: the JSON of `erpd run`, without the links."""

    campaign: str
    status: str
    recipe: str
    base: EvalReport
    iterations: tuple[IterationResult, ...]
    tracked: str
    """Path of the campaign's page in MLflow's UI."""


@flow(
    name="campaign",
    task_runner=StageRunner(),
    description="Iterations of batch, teacher, signal and student, from a recipe.",
    **HOOKS,
)
def campaign(what: What) -> CampaignResult:
    """Run a campaign; a stage whose result is in the store is shown as Cached."""
    config, recipe = what.resolve()
    return carry_out(prepare_campaign(config), recipe)


def carry_out(prepared: PreparedCampaign, recipe: str) -> CampaignResult:
    """Run or resume a campaign in the current flow run, which gets the campaign's name."""
    name_run(prepared.id)
    config = prepared.config
    commit = _git_commit()
    registry = open_registry()
    published = events_path(prepared.id).with_suffix(".published")
    repeated = published.exists() and any(
        row.id == prepared.id and row.status == "completed" for row in registry.campaigns()
    )
    if not repeated:
        published.unlink(missing_ok=True)
    registry.campaign_started(
        prepared.id, config.name, recipe, config.model_dump(mode="json"), commit
    )
    # MLflow's parameters never change, and the number of iterations may grow.
    params = {key: value for key, value in config.spec().items() if key != "iterations"}
    tracking = TrackingQueue(prepared.id, params)
    recorder = CampaignRecorder.open(prepared.id, config, tracking, repeated)
    tracking.submit(lambda tracker, run: tracker.tag(run, {**recorder.tags, "fault": "none"}))
    status = "failed"
    try:
        with session(recorder.events), Live(recorder, config.iterations):
            result = Campaign(prepared, recipe, recorder).run()
        status = "completed"
        return result
    except Pause:
        status = "running"  # suspended: it resumes in this iteration
        raise
    except Fault as fault:
        recorder.record_end(str(fault))
        raise
    except BaseException as error:
        if (stop := stop_in(error)) is None:
            raise
        status = "killed"
        if why := why_stopped():
            recorder.record_end(why)
            log_line(f"ends: {why}")
        raise stop from None
    finally:
        if status != "running":
            recorder.registry.campaign_finished(prepared.id, status)  # type: ignore[arg-type]
        publish(recorder)
        if status != "running":
            tracking.submit(lambda tracker, run: tracker.finish(run, status))
        tracking.flush()
        tracking.close()
        if status == "completed":
            published.touch()


run_campaign = flow(name="campaign", task_runner=StageRunner(), validate_parameters=False, **HOOKS)(
    carry_out
)
"""`carry_out` as a flow of its own, for the command line and for the arms of studies."""


class Campaign:
    """The steps of a campaign: the base first, then its iterations.

    Policies are evaluated while the next iteration runs.
    """

    def __init__(self, prepared: PreparedCampaign, recipe: str, recorder: CampaignRecorder) -> None:
        self.prepared, self.recipe, self.recorder = prepared, recipe, recorder
        self.results: list[IterationResult] = []
        self._unfinished: list[IterationEnd] = []

    @property
    def config(self) -> CampaignConfig:
        return self.prepared.config

    def run(self) -> CampaignResult:
        """Measure the base, then run every iteration; a decision to stop ends the campaign."""
        base, validation, benchmarks = self._inputs()
        with closing(Evaluations(self.config, base, benchmarks, self.recorder)) as evaluations:
            self.evaluations = evaluations
            evaluations.meanwhile = self._finish_iterations
            evaluations.start(0, "base", base, base)
            self._record_problems(validation, benchmarks)
            self._iterate(base, validation, benchmarks)
            evaluations.wait()
            self._finish_iterations()
            report = evaluations.reports(0)["base"]
        self.recorder.tracking.flush()
        pages = self.recorder.tracking.pages()
        assert pages, "everything was written, so MLflow was reached"
        return CampaignResult(
            campaign=self.prepared.id,
            status="completed",
            recipe=self.recipe,
            base=report,
            iterations=tuple(self.results),
            tracked=pages[0],
        )

    def _iterate(
        self, base: PolicyRef, validation: ProblemsRef, benchmarks: dict[str, ProblemsRef]
    ) -> None:
        state = CampaignState(
            base=base, start=base, students={}, validation=validation, benchmarks=benchmarks
        )
        for index in range(1, self.config.iterations + 1):
            if self.config.decision.fixed_for(index) != "online":  # else nothing is decided
                ahead = validation_stage(self.config, state.start, validation)
                who = "student" if index > 1 else "base"
                self.recorder.at(index - 1).start_ahead(ahead, f"validate {who}")
            end = self._iteration(index, state)
            self._unfinished.append(end)
            self._finish_iterations()
            if end.decision.strategy == "stop":
                break
            state = _after(state, end)

    def _iteration(self, index: int, state: CampaignState) -> IterationEnd:
        """Run an iteration, after the decision that a user has to make, if any."""
        runtime = self.config.runtime
        asks = not can_suspend(runtime.answer_seconds, runtime.pause_seconds)
        while True:
            result = run_iteration(self.config, index, state, self.prepared.id, asks)
            assert not isinstance(result, State), "a flow that is called returns its state's data"
            if not isinstance(result, DecisionRequest):
                return result
            self._finish_iterations()
            publish(self.recorder)
            self.recorder.tracking.flush()
            self.recorder.at(index).record_decision(ask_elsewhere(result))

    def _finish_iterations(self) -> None:
        """Record the iterations whose evaluations have ended, and publish the report."""
        self.evaluations.record_ended()
        while self._unfinished and self.evaluations.complete(self._unfinished[0].index):
            end = self._unfinished.pop(0)
            reports = self.evaluations.reports(end.index)
            seconds = {**end.seconds, **self.evaluations.seconds(end.index)}
            self.recorder.registry.iteration(
                self.recorder.campaign, end.index, "completed", seconds
            )
            if end.decision.strategy == "stop":
                return
            self.results.append(
                IterationResult(
                    index=end.index,
                    strategy=end.decision.strategy,
                    decision=end.decision,
                    teacher=reports.get("teacher", reports["student"]),
                    student=reports["student"],
                    seconds=seconds,
                )
            )
            if end.index < self.config.iterations:  # the last one is published at the end
                publish(self.recorder)

    def _record_problems(
        self, validation: ProblemsRef, benchmarks: Mapping[str, ProblemsRef]
    ) -> None:
        self.recorder.record_problems(validation, "validation")
        for problems in benchmarks.values():
            self.recorder.record_problems(problems, "test")

    def _inputs(self) -> tuple[PolicyRef, ProblemsRef, dict[str, ProblemsRef]]:
        """The base model, the validation problems, and the problems of each benchmark."""
        evaluation = self.config.evaluation
        sources = {"validation": evaluation.validation, **evaluation.benchmarks}
        draws = [
            StageCall(
                draw_problems(name, source, seed_for(self.config, 0, name)), f"draw {name}", name
            )
            for name, source in sources.items()
        ]
        importing = self.recorder.start(
            [StageCall(self.prepared.base, "import the base model", "base")]
        )
        drawing = self.recorder.start(draws)
        (base,), (validation, *benchmarks) = importing(), drawing()
        return base, validation, dict(zip(evaluation.benchmarks, benchmarks, strict=True))


def _after(state: CampaignState, end: IterationEnd) -> CampaignState:
    """The state of the campaign after an iteration."""
    return state.model_copy(
        update={
            "start": end.student,
            "students": {**state.students, end.index: end.student},
            "strategies": (*state.strategies, end.decision.strategy),
        }
    )


def _git_commit() -> str | None:
    """The project's commit, if it runs from a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
