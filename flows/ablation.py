"""A study as a flow: its arms are campaigns that run in turn, or side by side where Ray has room.

Stages that arms share are computed once, and shown as Cached after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from functools import partial
from pathlib import Path

from prefect import flow

from erpd_core.faults import Fault
from erpd_core.refs import Frozen
from flows.campaign import CampaignResult, run_campaign
from flows.live.artifacts import LiveArtifact
from flows.live.progress import name_run
from flows.recipes.forms import StudyChoice
from flows.recipes.studies import Study
from flows.recipes.study_files import remember
from flows.reports.study import write_efficiency_page, write_study_report
from flows.reports.study_table import study_markdown, study_rows
from flows.steps.preflight import PreparedStudy, prepare_study
from flows.steps.recorder import allow_stages, cancel_all
from flows.steps.tracking_queue import open_tracker
from tasks.execution.ray_cluster import max_concurrent_stages
from tasks.host.home import reports_path
from tasks.registry import open_registry
from tasks.store import Store, open_store


class StudyResult(Frozen):
    """The result of a study: the results of its arms."""

    study: str
    arms: dict[str, CampaignResult]


@flow(
    name="ablation",
    description="A table or figure of the paper: several campaigns that share what they have in "
    "common.",
)
def ablation(what: StudyChoice) -> StudyResult:
    """Run every arm of a study."""
    return carry_out_study(prepare_study(what.resolve()))


def carry_out_study(prepared: PreparedStudy) -> StudyResult:
    """Run or resume every arm of a study in the current flow run.

    A failing arm does not keep the others from running; the study fails at its end and names it.
    """
    name_run(prepared.id)
    remember(prepared.id, prepared.study)
    results: dict[str, CampaignResult] = {}
    failed: dict[str, Exception] = {}
    for arm, result in _run_arms(prepared):
        try:
            results[arm] = result()
        except Exception as error:
            failed[arm] = error
        show_table(prepared)
    publish_study(prepared)
    if failed:
        raise failure_of(failed)
    return StudyResult(study=prepared.id, arms={arm: results[arm] for arm in prepared.arms})


run_study = flow(name="ablation", validate_parameters=False)(carry_out_study)
"""`carry_out_study` as a flow of its own, for the command line."""


def failure_of(failed: dict[str, Exception]) -> Exception:
    """The error of a study with failed arms.

    If all of them ended with a numerical fault, it is the first fault with its own message.
    """
    faults = [(arm, error) for arm, error in failed.items() if isinstance(error, Fault)]
    if len(faults) < len(failed):
        return RuntimeError(
            f"arms failed: {'; '.join(f'{arm}: {error}' for arm, error in failed.items())}"
        )
    arm, fault = faults[0]
    return fault.within(
        f"arm {arm}"
        if len(faults) == 1
        else f"arm {arm}, the first of {len(faults)} that end like this"
    )


def _run_arms(prepared: PreparedStudy) -> Iterator[tuple[str, Callable[[], CampaignResult]]]:
    """Each arm as it ends, with a function that returns its result or raises its error."""
    runs = {
        arm: partial(run_campaign, campaign, prepared.study.name)
        for arm, campaign in prepared.arms.items()
    }
    first = prepared.study.arms[0].config.runtime
    at_once = min(max_concurrent_stages(first), len(runs))
    if at_once == 1:
        yield from runs.items()
        return
    allow_stages()
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="arm")
    try:
        running = {pool.submit(copy_context().run, run): arm for arm, run in runs.items()}
        for future in as_completed(running):
            yield running[future], future.result
    except BaseException:
        # Only this thread is interrupted. The others must end before their services are stopped.
        cancel_all()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def publish_study(prepared: PreparedStudy) -> None:
    """Write the study's report, failed arms included, and attach it to MLflow."""
    study = prepared.study
    path = write_study_pages(prepared.id, study, prepared.campaigns, open_store())
    tracker = open_tracker()
    tags = {"recipe": study.name, "kind": "study"}
    run = tracker.campaign_run(prepared.id, prepared.id, {"scale": study.scale}, tags)
    tracker.log_artifact(run, path.parent, "report")
    tracker.finish(run)


def show_table(prepared: PreparedStudy) -> None:
    """Show the current table as an artifact of the Prefect flow run."""
    rows = study_rows(open_registry(), begun(prepared.campaigns), prepared.study)
    path = reports_path(prepared.id) / "report.html"
    report = (
        f"{prepared.study.description}\n\n{study_markdown(rows)}\n\n"
        f"The full report, at the end: `{path}`"
    )
    title = f"{prepared.id}: every arm and the paper's numbers"
    LiveArtifact("markdown", "study-report").show(report, title)


def write_study_pages(name: str, study: Study, campaigns: Mapping[str, str], store: Store) -> Path:
    """Write `report.html`, its figures and the KL-efficiency page.

    **Arguments:**
        campaigns: Arm -> campaign.
    **Returns:** The path of `report.html`.
    """
    registry, folder, known = open_registry(), reports_path(name), begun(campaigns)
    write_efficiency_page(registry, known, folder)
    return write_study_report(registry, store, study, known, folder)


def begun(campaigns: Mapping[str, str]) -> dict[str, str]:
    """Arm -> campaign, for the campaigns that are in the registry."""
    known = {campaign.id for campaign in open_registry().campaigns()}
    return {arm: campaign for arm, campaign in campaigns.items() if campaign in known}
