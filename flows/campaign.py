"""A campaign: iterations of batch, teacher, signal and student, each starting from the last
student (Sec. 4.4).
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.exceptions import Pause
from prefect.states import State

from erpd_core.config import CampaignConfig
from erpd_core.faults import Fault
from erpd_core.refs import EvalReport, Frozen
from flows.live.progress import Live, log_line, name_run
from flows.live.publish import publish
from flows.recipes.forms import What, Written
from flows.steps.context import Known, seed_for
from flows.steps.hooks import HOOKS
from flows.steps.human_decision import Question, ask_elsewhere, can_suspend
from flows.steps.iteration import IterationResult, iteration
from flows.steps.preflight import check_inputs
from flows.steps.recorder import Desk
from flows.steps.tracking_queue import Aside
from tasks.datasets import draw_problems
from tasks.evaluation.evaluate import EvaluatePolicy
from tasks.evaluation.judge.rollouts import judge_question
from tasks.execution.submit import StageRunner
from tasks.host.shutdown import stop_in, why_stopped
from tasks.models.import_policy import import_policy
from tasks.registry import open_registry
from tasks.rollouts import SampleRollouts
from tasks.store import identity


class CampaignResult(Frozen):
    """What a campaign came to: the contract's JSON, but for the links."""

    campaign: str
    status: str
    recipe: str
    base: EvalReport
    iterations: tuple[IterationResult, ...]
    tracked: str
    """Path of the campaign's page in MLflow's UI."""


def campaign_id(config: CampaignConfig) -> str:
    """The same question is the same campaign, on every machine: that is how a killed one is found
    again.

    The model and data files enter by their bytes, not by where they lie.
    """
    sources = {
        "prompts": config.prompts,
        "validation": config.evaluation.validation,
        **config.evaluation.benchmarks,
    }
    question = config.question() | {"model": import_policy(config.model).identity()}
    question |= {
        "sources": {
            name: draw_problems(name, source, 0).question() for name, source in sources.items()
        }
    }
    question["prompts"] = None
    del question["iterations"]  # how far to go: more of them add to the same campaign
    judge = {"judge": judge_question(config.evaluation.judge)} if config.evaluation.judge else {}
    kept = config.evaluation.model_dump(
        mode="json", include={"validation_sampling", "sampling", "samples", "signal"}
    )
    question["evaluation"] = kept | judge
    return f"{config.name}-{identity('campaign', question, {}, 1)[-10:]}"


@flow(
    name="campaign",
    task_runner=StageRunner(),
    description="Iterations of batch, teacher, signal and student, from a recipe.",
    **HOOKS,
)
def campaign(what: What) -> CampaignResult:
    """Every stage that the store already answers is shown as Cached; the rest is worked out."""
    return carry_out(*what.resolve())


def run_campaign(config: CampaignConfig, recipe: str) -> CampaignResult:
    """Run (or go on with) a campaign as a Prefect flow."""
    return campaign(Written(config=config, recipe=recipe))


def carry_out(config: CampaignConfig, recipe: str) -> CampaignResult:
    """A campaign in the flow run this is called in, which gets its name."""
    check_inputs(config)
    name = campaign_id(config)
    name_run(name)
    commit = _git_commit()
    open_registry().campaign_started(
        name, config.name, recipe, config.model_dump(mode="json"), commit
    )
    # MLflow's never change, and this may grow
    params = {key: value for key, value in config.question().items() if key != "iterations"}
    desk = Desk.open(name, config, Aside(name, params))
    desk.aside.say(lambda tracker, run: tracker.tag(run, {**desk.tags, "fault": "none"}))
    status = "failed"
    try:
        with Live(desk, config.iterations):
            result = Campaign(config, recipe, desk).run()
        status = "completed"
        return result
    except Pause:
        status = "running"  # suspended: it begins again where it is
        raise
    except Fault as fault:
        desk.record_end(str(fault))
        raise
    except BaseException as error:
        if (stop := stop_in(error)) is None:
            raise
        status = "killed"
        if why := why_stopped():
            desk.record_end(why)
            log_line(f"ends: {why}")
        raise stop from None
    finally:
        if status != "running":
            desk.registry.campaign_finished(name, status)  # type: ignore[arg-type]
        publish(desk)
        if status != "running":
            desk.aside.say(lambda tracker, run: tracker.finish(run, status))
        desk.aside.settle()
        desk.aside.close()


class Campaign:
    """The steps of a campaign."""

    def __init__(self, config: CampaignConfig, recipe: str, desk: Desk) -> None:
        self.config, self.recipe, self.desk = config, recipe, desk

    def run(self) -> CampaignResult:
        known, report = self._begin()
        results: list[IterationResult] = []
        for index in range(1, self.config.iterations + 1):
            result = self._iteration(index, known)
            if result is None:
                break
            results.append(result)
            if index < self.config.iterations:  # the last one is published at the end
                publish(self.desk)
            known = known.model_copy(
                update={
                    "start": result.student_policy,
                    "start_validation": result.student_validation,
                    "students": {**known.students, index: result.student_policy},
                    "strategies": (*known.strategies, result.strategy),
                    "student_validations": {
                        **known.student_validations,
                        index: result.student_validation,
                    },
                }
            )
        self.desk.aside.settle()
        pages = self.desk.aside.pages()
        assert pages, "everything is said, so MLflow was reached"
        return CampaignResult(
            campaign=self.desk.campaign,
            status="completed",
            recipe=self.recipe,
            base=report,
            iterations=tuple(results),
            tracked=pages[0],
        )

    def _iteration(self, index: int, known: Known) -> IterationResult | None:
        """Its result, once a person has decided what a person is to decide."""
        waits = self.config.runtime
        asks = not can_suspend(waits.answer_seconds, waits.pause_seconds)
        while isinstance(
            result := iteration(self.config, index, known, self.desk.campaign, asks), Question
        ):
            publish(self.desk)
            self.desk.aside.settle()
            self.desk.record_decision(index, ask_elsewhere(result))
        assert not isinstance(result, State), "a flow that is called answers with its state's data"
        return result

    def _begin(self) -> tuple[Known, EvalReport]:
        """The base model and the problems, then the base's validation and its evaluation: side
        by side what can be.
        """
        asked = self.config.evaluation
        sources: dict[str, Any] = {"validation": asked.validation, **asked.benchmarks}
        draws = [
            (draw_problems(name, source, seed_for(self.config, 0, name)), f"draw {name}", name)
            for name, source in sources.items()
        ]
        importing = self.desk.start(
            "import", [(import_policy(self.config.model), "import the base model", "base")], 0
        )
        drawing = self.desk.start("problems", draws, 0)
        (base,), (validation, *benchmarks) = importing(), drawing()
        sampling = SampleRollouts(
            policy=base,
            problems=validation,
            sampling=asked.validation_sampling,
            seed=seed_for(self.config, 0, "validation"),
        )
        evaluation = EvaluatePolicy(
            policy=base,
            old=base,
            base=base,
            benchmarks=dict(zip(asked.benchmarks, benchmarks, strict=True)),
            sampling=asked.sampling,
            samples=asked.samples,
            judge=asked.judge,
            seed=seed_for(self.config, 0, "benchmarks"),
        )
        validating = self.desk.start(
            "rollouts", [(sampling, "validate base", "base validation")], 0
        )
        evaluating = self.desk.start(
            "evaluate", [(evaluation, "evaluate base", "base evaluation")], 0
        )
        (rollouts,), (report,) = validating(), evaluating()
        self.desk.record_report(0, "base", report, evaluation)
        for problems, context in (
            (validation, "validation"),
            *((one, "test") for one in benchmarks),
        ):
            self.desk.record_problems(problems, context)
        known = Known(
            base=base,
            start=base,
            start_validation=rollouts,
            students={},
            student_validations={},
            validation=validation,
            benchmarks=evaluation.benchmarks,
        )
        return known, report


def _git_commit() -> str | None:
    """The project's commit, when it runs from a checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
