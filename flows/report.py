"""A flow that writes the report of a campaign or study again, and shows it."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows.ablation import begun, write_study_pages
from flows.live.publish import campaign_markdown
from flows.recipes.study_files import remembered
from flows.reports.campaign import write_report
from flows.reports.results import summary, table_rows
from flows.reports.study_table import study_markdown, study_rows
from flows.steps.preflight import study_campaigns
from tasks.host.home import reports_path
from tasks.registry import open_registry
from tasks.store import open_store
from tasks.untrusted.display_text import markdown

ReportName = Annotated[
    str,
    Field(
        min_length=1,
        title="Campaign or study",
        description="Its id, its name (the latest one is taken), or the beginning of either.",
    ),
]


@flow(name="report", description="Write the HTML report of a campaign or a study again.")
def report(name: ReportName) -> str:
    """Write a report, and return its path. Raises LookupError for an unknown campaign."""
    registry, store = open_registry(), open_store()
    if remembered_study := remembered(name):
        id, study = remembered_study
        campaigns = study_campaigns(study)
        path = write_study_pages(id, study, campaigns, store)
        text = study_markdown(study_rows(registry, begun(campaigns), study))
    else:
        campaign = registry.campaign(name).id
        path = write_report(registry, store, campaign, reports_path(campaign))
        rows = table_rows(registry, campaign)
        text = "\n\n".join([*map(markdown, summary(rows)), campaign_markdown(rows)])
    create_markdown_artifact(f"{text}\n\nThe full report: `{path}`", key="report", description=name)
    return str(path)
