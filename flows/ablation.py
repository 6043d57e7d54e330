"""A study as a flow: its arms one after another, each a campaign; what they share is worked out once and shown as Cached after that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from erpd_core.refs import Frozen
from flows.campaign import CampaignResult, campaign, campaign_id
from flows.comparison import entries
from flows.stages import open_registry, reports_path
from flows.studies import Study
from flows.study_report import study_markdown, write_study_report
from tasks.resources import task_runner
from tasks.store import Store, identity, write_atomically
from tasks.verbs import open_store

STUDY = "study.json"


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
    named = ablation.with_options(flow_run_name=study_id(study))
    result: StudyResult = named(study)
    return result


@flow(name="ablation", validate_parameters=False)
def ablation(study: Study) -> StudyResult:
    """Every arm of a study. An arm that fails does not keep the others from running; the study fails at its end, naming it."""
    name = study_id(study)
    remember(name, study)
    results: dict[str, CampaignResult] = {}
    failed: dict[str, Exception] = {}
    for arm in study.arms:
        run = campaign.with_options(task_runner=task_runner(arm.config.runtime), flow_run_name=f"{arm.name} ({campaign_id(arm.config)})")
        try:
            results[arm.name] = run(arm.config, study.name)
        except Exception as error:
            failed[arm.name] = error
        publish_study(name, study)
    if failed:
        raise RuntimeError(f"arms failed: {'; '.join(f'{arm}: {error}' for arm, error in failed.items())}")
    return StudyResult(study=name, arms=results)


def publish_study(name: str, study: Study) -> Path:
    """Write the study's report as it stands, and show its table on the Prefect run."""
    path = report_study(name, study, open_store())
    known = {arm.name: campaign_id(arm.config) for arm in study.arms if _started(campaign_id(arm.config))}
    create_markdown_artifact(
        key="study-report",
        markdown=f"{study.description}\n\n{study_markdown(entries(open_registry(), known, study))}\n\nThe whole report: `{path}`",
        description=f"{name}: every arm beside the paper's numbers",
    )
    return path


def report_study(name: str, study: Study, store: Store) -> Path:
    """Write `report.html` and its pictures; the path of the page."""
    registry = open_registry()
    campaigns = {arm.name: campaign_id(arm.config) for arm in study.arms}
    return write_study_report(registry, store, study, campaigns, reports_path(name))


def remember(name: str, study: Study) -> None:
    """Keep what the study asked, so that its report can be written again."""
    write_atomically(reports_path(name) / STUDY, lambda path: path.write_text(study.model_dump_json(indent=1)))


def remembered(name: str) -> Study:
    """Raises LookupError for a study that was never run here."""
    path = reports_path(name) / STUDY
    if not path.is_file():
        raise LookupError(f"there is no study {name!r} in this ERPD_HOME")
    return Study.model_validate_json(path.read_text())


def _started(campaign: str) -> bool:
    try:
        open_registry().campaign(campaign)
    except LookupError:
        return False
    return True
