"""A campaign: iterations of batch, teacher, signal and student, each starting from the last student (Sec. 4.4)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from prefect import flow

from erpd_core.config import CampaignConfig
from erpd_core.refs import EvalReport, Frozen
from flows.aside import Aside
from flows.iteration import IterationResult, iteration
from flows.publish import publish
from flows.stages import Desk, open_registry
from flows.steps import Known, seed_for
from tasks.datasets import draw_problems
from tasks.evaluate import EvaluatePolicy
from tasks.judge.rollouts import judge_question
from tasks.policies import import_policy
from tasks.resources import task_runner
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
    """The same question is the same campaign, on every machine: that is how a killed one is found again.

    The model and data files enter by their bytes, not by where they lie.
    """
    sources = {"prompts": config.prompts, "validation": config.evaluation.validation, **config.evaluation.benchmarks}
    question = config.question() | {"model": import_policy(config.model).identity()}
    question |= {"sources": {name: draw_problems(name, source, 0).question() for name, source in sources.items()}}
    question["prompts"] = None
    judge = {"judge": judge_question(config.evaluation.judge)} if config.evaluation.judge else {}
    kept = config.evaluation.model_dump(mode="json", include={"validation_sampling", "sampling", "samples", "signal"})
    question["evaluation"] = kept | judge
    return f"{config.name}-{identity('campaign', question, {}, 1)[-10:]}"


def run_campaign(config: CampaignConfig, recipe: str) -> CampaignResult:
    """Run (or go on with) a campaign as a Prefect flow on the runner its runtime asks for."""
    runner = task_runner(config.runtime)
    named = campaign.with_options(task_runner=runner, flow_run_name=campaign_id(config))
    result: CampaignResult = named(config, recipe)
    return result


@flow(name="campaign", validate_parameters=False)
def campaign(config: CampaignConfig, recipe: str = "") -> CampaignResult:
    """Every stage that the store already answers is shown as Cached; the rest is worked out."""
    name = campaign_id(config)
    open_registry().campaign_started(name, config.name, recipe, config.model_dump(mode="json"), _git_commit())
    desk = Desk.open(name, config, Aside(name, config.question(), {"recipe": recipe, "seed": str(config.seed)}))
    status = "failed"
    try:
        result = Campaign(config, recipe, desk).run()
        desk.aside.settle()
        status = "completed"
        return result
    except KeyboardInterrupt:
        status = "killed"
        raise
    finally:
        desk.registry.campaign_finished(name, status)  # type: ignore[arg-type]
        publish(desk)
        desk.aside.say(lambda tracker, run: tracker.finish(run, status))
        desk.aside.settle()


class Campaign:
    """The steps of a campaign."""

    def __init__(self, config: CampaignConfig, recipe: str, desk: Desk) -> None:
        self.config, self.recipe, self.desk = config, recipe, desk

    def run(self) -> CampaignResult:
        known, report = self._begin()
        results: list[IterationResult] = []
        for index in range(1, self.config.iterations + 1):
            runner = iteration.with_options(task_runner=task_runner(self.config.runtime))
            result = runner(self.config, index, known, self.desk.campaign)
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
                    "student_validations": {**known.student_validations, index: result.student_validation},
                }
            )
        return CampaignResult(
            campaign=self.desk.campaign,
            status="completed",
            recipe=self.recipe,
            base=report,
            iterations=tuple(results),
            tracked=self.desk.aside.page(),
        )

    def _begin(self) -> tuple[Known, EvalReport]:
        """The base model and the problems, then the base's validation and its evaluation: side by side what can be."""
        asked = self.config.evaluation
        sources: dict[str, Any] = {"validation": asked.validation, **asked.benchmarks}
        draws = [(draw_problems(name, source, seed_for(self.config, 0, name)), f"draw {name}", name) for name, source in sources.items()]
        importing = self.desk.start("import", [(import_policy(self.config.model), "import the base model", "base")], 0)
        drawing = self.desk.start("problems", draws, 0)
        (base,), (validation, *benchmarks) = importing(), drawing()
        sampling = SampleRollouts(
            policy=base, problems=validation, sampling=asked.validation_sampling, seed=seed_for(self.config, 0, "validation")
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
        validating = self.desk.start("rollouts", [(sampling, "validate base", "base validation")], 0)
        evaluating = self.desk.start("evaluate", [(evaluation, "evaluate base", "base evaluation")], 0)
        (rollouts,), (report,) = validating(), evaluating()
        self.desk.record_report(0, "base", report, evaluation)
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
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
