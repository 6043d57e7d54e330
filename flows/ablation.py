"""A study as a flow: its arms, each a campaign, one after another or side by side where Ray has
places for more than one stage.

What they share is worked out once, and shown as Cached after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow

from erpd_core.faults import Fault
from erpd_core.refs import Frozen
from flows.campaign import CampaignResult, campaign, campaign_id
from flows.live.artifacts import Shown
from flows.live.progress import name_run
from flows.recipes.forms import StudyChoice, Written
from flows.recipes.studies import Arm, Study
from flows.recipes.study_files import remember
from flows.reports.study import write_efficiency_page, write_study_report
from flows.reports.study_table import entries, study_markdown
from flows.steps.in_flight import halt
from flows.steps.preflight import check_inputs
from flows.steps.recorder import reports_path
from flows.steps.tracking_queue import open_tracker
from tasks.execution.ray_cluster import places
from tasks.registry import open_registry
from tasks.store import Store, identity, open_store


class StudyResult(Frozen):
    """What a study came to: its arms' campaigns."""

    study: str
    arms: dict[str, CampaignResult]


def study_id(study: Study) -> str:
    """The same arms are the same study."""
    question: dict[str, Any] = {arm.name: campaign_id(arm.config) for arm in study.arms}
    return f"{study.name}-{study.scale}-{identity('study', question, {}, 1)[-10:]}"


def run_study(study: Study) -> StudyResult:
    """Run (or go on with) a study as a Prefect flow."""
    return ablation(StudyChoice.of(study))


@flow(
    name="ablation",
    description="A table or figure of the paper: several campaigns that share what they have in "
    "common.",
)
def ablation(what: StudyChoice) -> StudyResult:
    """Every arm of a study. An arm that fails does not keep the others from running; the study
    fails at its end, naming it.
    """
    study = what.resolve()
    for arm in study.arms:
        check_inputs(arm.config)
    name = study_id(study)
    name_run(name)
    remember(name, study)
    results: dict[str, CampaignResult] = {}
    failed: dict[str, Exception] = {}
    for arm, result in _run_arms(study):
        try:
            results[arm.name] = result()
        except Exception as error:
            failed[arm.name] = error
        show_table(study, name)
    publish_study(name, study)
    if failed:
        raise failure_of(failed)
    return StudyResult(study=name, arms={arm.name: results[arm.name] for arm in study.arms})


def failure_of(failed: dict[str, Exception]) -> Exception:
    """What a study ends with whose other arms are done: where numbers are at fault, the first of
    them, in its own words.
    """
    faults = [(arm, error) for arm, error in failed.items() if isinstance(error, Fault)]
    if len(faults) < len(failed):
        return RuntimeError(
            f"arms failed: {'; '.join(f'{arm}: {error}' for arm, error in failed.items())}"
        )
    arm, fault = faults[0]
    return fault.within(
        f"arm {arm}" if len(faults) == 1 else f"arm {arm}, the first of {len(faults)} that end so"
    )


def _run_arms(study: Study) -> Iterator[tuple[Arm, Callable[[], CampaignResult]]]:
    """Each arm with what gives its result or raises its error: as many at a time as stages have
    places, as they end.
    """
    at_once = min(places(study.arms[0].config.runtime), len(study.arms))
    if at_once == 1:
        for arm in study.arms:
            yield arm, partial(_run_arm, study, arm)
        return
    halt(False)
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="arm")
    try:
        running = {pool.submit(copy_context().run, _run_arm, study, arm): arm for arm in study.arms}
        for future in as_completed(running):
            yield running[future], future.result
    except BaseException:
        # an interrupt meets this thread alone; the others end before what they use is stopped
        halt(True)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _run_arm(study: Study, arm: Arm) -> CampaignResult:
    return campaign(Written(config=arm.config, recipe=study.name))


def publish_study(name: str, study: Study) -> None:
    """Write the study's report, failed arms and all, and attach it to MLflow."""
    path = write_report_of(name, study, open_store())
    tracker = open_tracker()
    run = tracker.campaign_run(
        name, name, {"scale": study.scale}, {"recipe": study.name, "kind": "study"}
    )
    tracker.log_artifact(run, path.parent, "report")
    tracker.finish(run)


def show_table(study: Study, name: str) -> None:
    """The table as it stands, as an artifact of the Prefect run."""
    table = study_markdown(entries(open_registry(), known_arms(study), study))
    report = (
        f"{study.description}\n\n{table}\n\nThe whole report, at the end: "
        f"`{reports_path(name) / 'report.html'}`"
    )
    Shown("markdown", "study-report").show(report, f"{name}: every arm beside the paper's numbers")


def write_report_of(name: str, study: Study, store: Store) -> Path:
    """Write `report.html`, its pictures and the KL-efficiency page; the path of the report."""
    registry, folder = open_registry(), reports_path(name)
    write_efficiency_page(registry, known_arms(study), folder)
    return write_study_report(registry, store, study, known_arms(study), folder)


def known_arms(study: Study) -> dict[str, str]:
    """The campaigns of the arms that have begun."""
    begun = {campaign.id for campaign in open_registry().campaigns()}
    return {arm.name: one for arm in study.arms if (one := campaign_id(arm.config)) in begun}
