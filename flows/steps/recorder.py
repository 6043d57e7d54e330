"""How a flow asks for a stage (found in the store it is shown as Cached, else submitted to where
work runs) and says what came of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erpd_core.batch_outcomes import Outcomes
from erpd_core.config import CampaignConfig, RuntimeConfig
from erpd_core.optimize import Record
from erpd_core.refs import Decision, EvalReport, Overlap, PolicyRef, ProblemsRef
from flows.steps.in_flight import at_work
from flows.steps.tracking_queue import Aside
from tasks.evaluation.evaluate import EvaluatePolicy
from tasks.evaluation.result_files import load_details
from tasks.execution.prefect_tasks import TASKS, Verb, show_cached
from tasks.execution.progress import Progress
from tasks.execution.stage import Stage
from tasks.execution.submit import submit
from tasks.host.home import home
from tasks.registry import Registry, open_registry
from tasks.store import Store, open_store
from tasks.tracking import TrackedRun, Tracker

Answers = Callable[[], list[Any]]
"""Waits for stages that were started, records that they play their roles, and returns what they
answered.
"""


def events_path(campaign: str) -> Path:
    """Where the stages of a campaign tell how far they are."""
    return home() / "logs" / f"{campaign}.events.jsonl"


def reports_path(campaign: str) -> Path:
    """Where a campaign's report and its pictures are written."""
    return home() / "reports" / campaign


@dataclass(frozen=True)
class Desk:
    """What a running campaign writes to. It lives in one flow's process: stages never see it,
    and flows open their own.
    """

    campaign: str
    model: str
    """Name under which its checkpoints are registered in MLflow."""
    runtime: RuntimeConfig
    store: Store
    registry: Registry
    events: Path
    aside: Aside = field(repr=False)
    """Where MLflow is told, beside the stages."""
    tags: Mapping[str, str]
    """What every MLflow run of the campaign is found by."""
    known: set[str] = field(default_factory=set, repr=False)
    """Artifacts this desk has recorded already."""
    decided: dict[int, str] = field(default_factory=dict, repr=False)
    """Iteration -> its strategy."""

    @classmethod
    def open(cls, campaign: str, config: CampaignConfig, aside: Aside | None = None) -> Desk:
        """The desk of a campaign that the registry knows."""
        registry = open_registry()
        found = registry.campaign(campaign)
        return cls(
            campaign=campaign,
            model=config.name,
            runtime=config.runtime,
            store=open_store(),
            registry=registry,
            events=events_path(campaign),
            aside=aside or Aside.of(campaign),
            tags={
                "recipe": found.recipe,
                "seed": str(config.seed),
                "git_commit": found.git_commit or "none",
            },
        )

    # --------------------------------------------------------------------------------------- stages

    def ask(self, verb: Verb, stage: Stage[Any], label: str, iteration: int, role: str) -> Any:
        """The stage's answer, recorded as playing `role` in this iteration (0: the base)."""
        return self.ask_all(verb, [(stage, label, role)], iteration)[0]

    def ask_all(
        self, verb: Verb, asked: Sequence[tuple[Stage[Any], str, str]], iteration: int
    ) -> list[Any]:
        """Several independent stages at once: (stage, label, role) each."""
        return self.start(verb, asked, iteration)()

    def start(
        self, verb: Verb, asked: Sequence[tuple[Stage[Any], str, str]], iteration: int
    ) -> Answers:
        """The same without waiting: they run beside whatever is asked next. Call what is
        returned, once, for their answers.
        """
        begun = [self._begin(verb, stage, f"{iteration}: {label}") for stage, label, _ in asked]

        def answers() -> list[Any]:
            found = [answer() for answer in begun]
            for stage, _, role in asked:
                self._record(stage.identity(), iteration, role)
            return found

        return answers

    def _begin(self, verb: Verb, stage: Stage[Any], title: str) -> Callable[[], Any]:
        found = stage.stored(self.store)
        if found is not None:
            Progress(self.events, title).event(status="cached")
            show_cached(title, found, return_state=True)
            return lambda: found
        return at_work(
            stage.identity(),
            lambda: submit(TASKS[verb], self.runtime, stage, self.runtime, title, self.events),
        )

    def _record(self, artifact: str, iteration: int, role: str) -> None:
        self._know(artifact)
        self.registry.attach(self.campaign, iteration, role, artifact)

    def _know(self, artifact: str) -> None:
        """Record an artifact, and first what it was made from."""
        manifest = self.store.manifest(artifact)
        for parent in set(manifest.inputs.values()):
            if parent not in self.known:
                self._know(parent)
        self.registry.record_artifact(
            manifest.id,
            manifest.kind,  # type: ignore[arg-type]
            manifest.question,
            list(manifest.inputs.items()),
            manifest.meta,
            manifest.seconds,
        )
        self.known.add(artifact)

    def seconds(self, *stages: Stage[Any]) -> float:
        """What these stages cost when they were worked out, in whichever session that was."""
        return sum(self.store.manifest(stage.identity()).seconds for stage in stages)

    # ------------------------------------------------------------------------------------- tracking

    def record_policy(self, policy: PolicyRef, iteration: int, role: str) -> None:
        """A checkpoint: in the registry, and in MLflow as a version of the campaign's model."""
        self._record(policy.id, iteration, role)
        tags = {"role": role, "iteration": str(iteration), "step": str(policy.step)}
        alias = role if role in ("teacher", "student") else None
        uri = self.store.path(policy.id).as_uri()
        self.aside.say(
            lambda tracker, run: tracker.register_policy(
                self.model, policy.id, run, alias=alias, uri=uri, tags=tags
            )
        )

    def say(self, text: str) -> None:
        """Show a line where progress is shown."""
        Progress(self.events, text).event(status="said")

    def record_decision(self, iteration: int, decision: Decision) -> None:
        self.registry.record_decision(self.campaign, iteration, decision)
        self.decided[iteration] = decision.strategy
        asked = decision.evidence.get("asked") or {"by": "automatic"}
        tags = {
            "strategy": decision.strategy,
            "iteration": str(iteration),
            "decided_by": asked["by"],
        }
        self.aside.say(lambda tracker, run: tracker.tag(run, tags))
        self._file(f"decisions/{iteration}.json", decision.model_dump_json(indent=1))
        self.say(f"{iteration}: decided {decision.strategy}: {decision.reason}")

    def record_outcomes(self, iteration: int, outcomes: Outcomes) -> None:
        """What the fixed batch of an iteration can teach."""
        self._file(f"outcomes/{iteration}.json", outcomes.model_dump_json(indent=1))
        self.say(f"{iteration}: {outcomes}")

    def record_end(self, fault: str) -> None:
        """Why the campaign cannot go on: where progress is shown, and in MLflow. The registry
        says that it failed or was stopped.
        """
        self.aside.say(lambda tracker, run: tracker.tag(run, {"fault": fault}))
        self.say(f"ends: {fault}")

    def record_selection(self, iteration: int, evidence: Mapping[str, Any]) -> None:
        """Which kept step became the student, and the validation scores and KL it was chosen by."""
        self._file(f"selections/{iteration}.json", json.dumps(evidence, indent=1))
        chosen = f"step {evidence['chosen']['step']} {evidence['chosen']['alternative']}".rstrip()
        self.say(f"{iteration}: chose the student of {chosen}")

    def record_overlap(self, iteration: int, overlap: Overlap) -> None:
        """What training prompts share with what is measured on; the registry has it with the
        prompts themselves.
        """
        self._file(f"overlap/{iteration}.json", overlap.model_dump_json(indent=1))
        said = (
            f"{overlap.exact + overlap.ngram} of {overlap.checked} prompts overlap with what "
            f"is measured on ({overlap.action})"
        )
        self.say(f"{iteration}: {said}")

    def _file(self, name: str, text: str) -> None:
        self.aside.say(lambda tracker, run: tracker.log_text(run, text, name))

    def record_report(
        self, iteration: int, role: str, report: EvalReport, stage: EvaluatePolicy
    ) -> None:
        """What an evaluation found: the report in the registry, that and its details in MLflow."""
        self.registry.record_report(self.campaign, iteration, role, report)
        details = load_details(self.store, stage.identity())

        def write(tracker: Tracker, run: TrackedRun) -> None:
            tracker.log_report(
                run, report, iteration, None if role in ("base", "student") else role, details
            )
            with self._phase(tracker, run, iteration, role, {}) as phase:
                tracker.log_report(phase, report, stage.policy.step, details=details)

        self.aside.say(write)

    def track_training(
        self, iteration: int, role: str, records: Sequence[Record], tags: Mapping[str, str]
    ) -> None:
        def write(tracker: Tracker, run: TrackedRun) -> None:
            with self._phase(tracker, run, iteration, role, tags) as phase:
                tracker.log_records(phase, records)

        self.aside.say(write)

    @contextmanager
    def _phase(
        self, tracker: Tracker, run: TrackedRun, iteration: int, role: str, tags: Mapping[str, str]
    ) -> Iterator[TrackedRun]:
        """The run of one phase, finished after it."""
        own = {"role": role, "iteration": str(iteration)} | (
            {"strategy": strategy} if (strategy := self.decided.get(iteration)) else {}
        )
        phase = tracker.phase_run(
            run, f"{iteration}/{role}", f"{role}-{iteration}", tags={**self.tags, **own, **tags}
        )
        yield phase
        tracker.finish(phase)

    def record_problems(self, problems: ProblemsRef, context: str) -> None:
        """A problem list that the campaign trains or is measured on, as a dataset of its MLflow
        run.
        """
        manifest = self.store.manifest(problems.id)
        self.aside.say(
            lambda tracker, run: tracker.log_dataset(
                run, problems.name, problems.id, context, manifest.question, problems.count
            )
        )
