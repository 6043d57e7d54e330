"""The recorder of a running campaign: runs its stages, and records artifacts and results."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic

from erpd_core.batch_outcomes import BatchOutcomes
from erpd_core.config import CampaignConfig, RuntimeConfig
from erpd_core.refs import (
    Decision,
    EvalReport,
    Overlap,
    PolicyRef,
    ProblemsRef,
    RaceRef,
    Refill,
    TrainingRef,
    ValuesRef,
)
from erpd_core.schedule import Phase
from flows.steps.tracking_queue import TrackingQueue
from tasks.evaluation.evaluate import EvaluatePolicy
from tasks.evaluation.result_files import load_details
from tasks.execution.prefect_tasks import report_cache_hit
from tasks.execution.progress import Progress
from tasks.execution.stage import Ref, Stage
from tasks.execution.submit import submit, wait_for, work_of
from tasks.host.home import events_path
from tasks.registry import Registry, open_registry
from tasks.store import Store, open_store
from tasks.tracking import TrackedRun, Tracker
from tasks.training.base import load_records

_lock = threading.Lock()
_cancelled = threading.Event()
_in_flight: dict[str, Submission] = {}
"""Artifact -> this process's task that makes it, until somebody has waited for it."""


@dataclass(frozen=True)
class Submission:
    """A submitted Prefect task that makes an artifact. Call it to wait for the result."""

    artifact: str
    future: Any

    def __call__(self, meanwhile: Callable[[], object] = lambda: None) -> Any:
        """Wait for the result.

        **Arguments:**
            meanwhile: Called about every second.
        **Raises:** The exception of the task; KeyboardInterrupt after `cancel_all`.
        """

        def poll() -> None:
            if _cancelled.is_set():
                raise KeyboardInterrupt
            meanwhile()

        try:
            wait_for(self._work, poll)
            return self.future.result()
        finally:
            with _lock:
                if _in_flight.get(self.artifact) is self:
                    del _in_flight[self.artifact]

    @property
    def ended(self) -> bool:
        return self._work.done()

    @property
    def failed(self) -> bool:
        """Whether it ended without a result: another arm that needs it submits it again."""
        return self._work.done() and (self._work.cancelled() or self._work.exception() is not None)

    @cached_property
    def _work(self) -> Future[Any]:
        return work_of(self.future)


@dataclass(frozen=True)
class StoredResult(Generic[Ref]):
    """A result that the store held; like a `Submission` that has ended."""

    ref: Ref
    ended: ClassVar[bool] = True

    def __call__(self, meanwhile: Callable[[], object]) -> Ref:
        return self.ref


def run_once(artifact: str, submit_task: Callable[[], Any]) -> Submission:
    """Submit the task that makes an artifact, unless this process is making it already.

    Without this, the task of a second flow would occupy one of Ray's slots only to wait for the
    first one's lock in the store.

    **Raises:** KeyboardInterrupt after `cancel_all`.
    """
    if _cancelled.is_set():
        raise KeyboardInterrupt
    with _lock:
        if artifact not in _in_flight or _in_flight[artifact].failed:
            _in_flight[artifact] = Submission(artifact, submit_task())
        return _in_flight[artifact]


def cancel_all() -> None:
    """After an interrupt, keep the flows of this process from starting or awaiting stages."""
    _cancelled.set()


def allow_stages() -> None:
    """Permit stages again after `cancel_all`."""
    _cancelled.clear()


@dataclass(frozen=True)
class StageCall(Generic[Ref]):
    """A stage, the label it is shown with, and the role of its artifact in the campaign.

    **Example:** `StageCall(sampling, "sample the fixed batch", "rollouts")`
    """

    stage: Stage[Ref]
    label: str
    role: str


@dataclass(frozen=True)
class PendingResults(Generic[Ref]):
    """Started stages. Call it once, to wait, record their artifacts and get their results."""

    recorder: CampaignRecorder
    calls: Sequence[StageCall[Ref]]
    phase: Phase | None
    results: Sequence[Submission | StoredResult[Ref]]
    """One for each call."""

    def __call__(self, meanwhile: Callable[[], object] = lambda: None) -> list[Ref]:
        """Wait for the results; `meanwhile` is called about every second."""

        def poll() -> None:
            self.recorder.meanwhile()
            meanwhile()

        refs = [result(poll) for result in self.results]
        for call in self.calls:
            self.recorder.record_stage(call, self.phase)
        return refs

    @property
    def ended(self) -> bool:
        """Whether no wait is needed."""
        return all(result.ended for result in self.results)


@dataclass(frozen=True)
class CampaignRecorder:
    """Runs the stages of one iteration, and records results in the registry and in MLflow.

    It lives in one flow's process: stages never see it, and each flow opens its own.
    """

    campaign: str
    model: str
    """Name under which the checkpoints are registered in MLflow."""
    runtime: RuntimeConfig
    store: Store
    registry: Registry
    events: Path
    tracking: TrackingQueue = field(repr=False)
    """Writes to MLflow in the background."""
    tags: Mapping[str, str]
    """Tags of every MLflow run of the campaign."""
    iteration: int = 0
    """The iteration being recorded; 0 is the base model."""
    meanwhile: Callable[[], object] = field(default=lambda: None, repr=False)
    """Called about every second while the recorder waits for a stage."""
    seconds: dict[str, float] = field(default_factory=dict, repr=False)
    """Phase of this iteration -> seconds of work, over all sessions."""
    recorded: set[str] = field(default_factory=set, repr=False)
    """Artifacts that this process has put into the registry for the campaign."""
    repeated: bool = False
    """Whether the campaign was complete when this run began."""
    counted: set[str] = field(default_factory=set, repr=False)
    """Artifacts whose seconds this run has counted, in the iteration that asked first."""
    computed: set[str] = field(default_factory=set, repr=False)
    """Artifacts that this run had to compute."""
    shown: set[str] = field(default_factory=set, repr=False)
    """Artifacts whose stage this process has shown, as computed or as cached."""
    decided: dict[int, str] = field(default_factory=dict, repr=False)
    """Iteration -> its strategy."""

    @classmethod
    def open(
        cls,
        campaign: str,
        config: CampaignConfig,
        tracking: TrackingQueue,
        repeated: bool = False,
    ) -> CampaignRecorder:
        """The recorder of a campaign that is in the registry, for the base model."""
        registry = open_registry()
        row = registry.campaign(campaign)
        return cls(
            campaign=campaign,
            model=config.name,
            runtime=config.runtime,
            store=open_store(),
            registry=registry,
            events=events_path(campaign),
            tracking=tracking,
            repeated=repeated,
            tags={
                "recipe": row.recipe,
                "seed": str(config.seed),
                "git_commit": row.git_commit or "none",
            },
        )

    def at(self, iteration: int) -> CampaignRecorder:
        """The same recorder for another iteration."""
        return replace(self, iteration=iteration, seconds={})

    # --------------------------------------------------------------------------------------- stages

    def run(self, stage: Stage[Ref], label: str, role: str, phase: Phase | None = None) -> Ref:
        """The stage's result, recorded as playing `role` in this iteration."""
        return self.start([StageCall(stage, label, role)], phase)()[0]

    def start(
        self, calls: Sequence[StageCall[Ref]], phase: Phase | None = None
    ) -> PendingResults[Ref]:
        """Start independent stages, and return without waiting for them.

        A result that the store holds is shown as Cached. Seconds count towards `phase`, by default
        the stage's own.
        """
        submitted = [self._begin(call.stage, f"{self.iteration}: {call.label}") for call in calls]
        return PendingResults(self, calls, phase, submitted)

    def start_ahead(self, stage: Stage[Any], label: str) -> None:
        """Start a stage that will be requested later."""
        self._begin(stage, f"{self.iteration}: {label}")

    def record_stage(self, call: StageCall[Any], phase: Phase | None) -> None:
        """Record the artifact of a finished stage in its role, and count its seconds."""
        self._attach(call.stage.identity(), call.role)
        self._count_seconds(call.stage, phase)
        self.tracking.begin()

    def _begin(self, stage: Stage[Ref], title: str) -> Submission | StoredResult[Ref]:
        artifact = stage.identity()
        if artifact not in _in_flight and (stored := stage.stored(self.store)) is not None:
            if artifact not in self.shown:
                self.shown.add(artifact)
                Progress(self.events, title).event(status="cached")
                report_cache_hit(title, stored, return_state=True)
            return StoredResult(stored)
        self.shown.add(artifact)
        self.computed.add(artifact)
        return run_once(artifact, lambda: submit(stage, self.runtime, title, self.events))

    def _count_seconds(self, stage: Stage[Any], phase: Phase | None) -> None:
        artifact = stage.identity()
        if (phase := phase or stage.PHASE) and artifact not in self.counted:
            self.counted.add(artifact)
            spent = self.store.manifest(artifact).seconds
            self.seconds[phase] = round(self.seconds.get(phase, 0.0) + spent, 3)

    def _attach(self, artifact: str, role: str) -> None:
        self._register(artifact)
        self.registry.attach(self.campaign, self.iteration, role, artifact)

    def _register(self, artifact: str) -> None:
        """Put an artifact into the registry, after the artifacts it was made from."""
        manifest = self.store.manifest(artifact)
        for parent in set(manifest.inputs.values()):
            if parent not in self.recorded:
                self._register(parent)
        self.registry.record_artifact(
            manifest.id,
            manifest.kind,  # type: ignore[arg-type]
            manifest.spec,
            list(manifest.inputs.items()),
            manifest.meta,
            manifest.seconds,
        )
        self.recorded.add(artifact)

    # -------------------------------------------------------------------------------------- results

    def say(self, text: str) -> None:
        """Show a line among the progress lines."""
        Progress(self.events, text).event(status="said")

    def record_policies(self, policies: Sequence[PolicyRef], role: str) -> None:
        """Register checkpoints; in MLflow they become versions of the campaign's model."""
        alias = role if role in ("teacher", "student") else None
        for policy in policies:
            self._attach(policy.id, role)
            tags = {"role": role, "iteration": str(self.iteration), "step": str(policy.step)}
            uri = self.store.path(policy.id).as_uri()

            def write(
                tracker: Tracker,
                run: TrackedRun,
                id: str = policy.id,
                uri: str = uri,
                tags: dict[str, str] = tags,
            ) -> None:
                tracker.register_policy(self.model, id, run, alias=alias, uri=uri, tags=tags)

            self.tracking.submit(write)

    def record_decision(self, decision: Decision) -> None:
        """Record which strategy this iteration takes, and why."""
        self.registry.record_decision(self.campaign, self.iteration, decision)
        self.decided[self.iteration] = decision.strategy
        asked = decision.evidence.get("asked") or {"by": "automatic"}
        tags = {
            "strategy": decision.strategy,
            "iteration": str(self.iteration),
            "decided_by": asked["by"],
        }
        self.tracking.submit(lambda tracker, run: tracker.tag(run, tags))
        self._log_text("decisions", decision.model_dump_json(indent=1))
        self.say(f"{self.iteration}: decided {decision.strategy}: {decision.reason}")

    def record_outcomes(self, outcomes: BatchOutcomes, refill: Refill | None) -> None:
        """Record how many responses of the fixed batch are right, wrong, cut or empty.

        Also records which groups were left out, if some were.
        """
        self._log_text("outcomes", outcomes.model_dump_json(indent=1))
        self.say(f"{self.iteration}: {outcomes}")
        if refill:
            self._log_text("refill", refill.model_dump_json(indent=1))
            self.say(f"{self.iteration}: {refill}")

    def record_selection(self, evidence: Mapping[str, Any]) -> None:
        """Record which kept step became the student, and the scores and KL it was chosen by."""
        self._log_text("selections", json.dumps(evidence, indent=1))
        chosen = f"step {evidence['chosen']['step']} {evidence['chosen']['alternative']}".rstrip()
        self.say(f"{self.iteration}: chose the student of {chosen}")

    def record_race(self, role: str, race: RaceRef) -> None:
        """Record a race: who won, who was dropped when, and the samples it needed."""
        self._log_text("races", race.model_dump_json(indent=1), f"{self.iteration}-{role}")
        self.say(
            f"{self.iteration}: {race.winner} wins among {len(race.contestants)} policies, with "
            f"{race.saved:.0%} fewer samples than a full selection"
        )

    def record_problems(self, problems: ProblemsRef, context: str) -> None:
        """Log a problem list as a dataset of the campaign's MLflow run."""
        spec = self.store.manifest(problems.id).spec
        self.tracking.submit(
            lambda tracker, run: tracker.log_dataset(
                run, problems.name, problems.id, context, spec, problems.count
            )
        )

    def record_overlap(self, overlap: Overlap) -> None:
        """Record how many training prompts overlap with validation and benchmarks."""
        self._log_text("overlap", overlap.model_dump_json(indent=1))
        self.say(
            f"{self.iteration}: {overlap.exact + overlap.ngram} of {overlap.checked} prompts "
            f"overlap with validation or benchmarks ({overlap.action})"
        )

    def record_report(self, role: str, report: EvalReport, stage: EvaluatePolicy) -> None:
        """Record an evaluation: the report in the registry, and with its details in MLflow."""
        self.registry.record_report(self.campaign, self.iteration, role, report)
        scores = ", ".join(
            f"{100 * score.avg:.1f} % on {name}" for name, score in report.scores.items()
        )
        self.say(f"{self.iteration}: {role} scores {scores}")
        details = load_details(self.store, stage.identity())
        prefix = None if role in ("base", "student") else role

        def write(tracker: Tracker, run: TrackedRun) -> None:
            tracker.log_report(run, report, self.iteration, prefix, details)
            with self._phase_run(tracker, run, role, {}) as phase:
                tracker.log_report(phase, report, stage.policy.step, details=details)

        self.tracking.submit(write)

    def record_training(
        self, name: str, training: TrainingRef | ValuesRef, tags: Mapping[str, str]
    ) -> None:
        """Log the record of every optimizer step of a training run."""
        records = load_records(self.store, training)

        def write(tracker: Tracker, run: TrackedRun) -> None:
            with self._phase_run(tracker, run, name, tags) as phase:
                tracker.log_records(phase, records)

        self.tracking.submit(write)

    def record_end(self, reason: str) -> None:
        """Record why the campaign cannot continue; the registry holds its status."""
        self.tracking.submit(lambda tracker, run: tracker.tag(run, {"fault": reason}))
        self.say(f"ends: {reason}")

    def _log_text(self, folder: str, text: str, stem: str | None = None) -> None:
        name = f"{folder}/{stem or self.iteration}.json"
        self.tracking.submit(lambda tracker, run: tracker.log_text(run, text, name))

    @contextmanager
    def _phase_run(
        self, tracker: Tracker, run: TrackedRun, role: str, tags: Mapping[str, str]
    ) -> Iterator[TrackedRun]:
        """The MLflow run of one phase of this iteration, finished at the end of the block."""
        own = {"role": role, "iteration": str(self.iteration)}
        if strategy := self.decided.get(self.iteration):
            own["strategy"] = strategy
        name = f"{self.iteration}/{role}"
        phase = tracker.phase_run(
            run, name, f"{role}-{self.iteration}", tags={**self.tags, **own, **tags}
        )
        yield phase
        tracker.finish(phase)
