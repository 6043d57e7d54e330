"""`erpd report`: the HTML pages and tables of campaigns and studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from flows.recipes.studies import Study
from tasks.host.home import reports_path
from tasks.registry import open_registry
from tasks.store import open_store


def report_campaign(campaign: str, console: Console) -> Path:
    """Write a campaign's report and print its table.

    **Returns:** The path of the HTML file.
    **Raises:** LookupError for an unknown campaign.
    """
    from flows.reports.campaign import write_report

    registry = open_registry()
    campaign_id = registry.campaign(campaign).id
    write_report(registry, open_store(), campaign_id, reports_path(campaign_id))
    return show_campaign(campaign_id, console)


def show_campaign(campaign: str, console: Console) -> Path:
    """Print the table of a campaign whose report has been written.

    **Returns:** The path of the HTML file.
    """
    from flows.reports.results import rich_table, table_rows

    console.print(rich_table(table_rows(open_registry(), campaign)))
    return reports_path(campaign) / "report.html"


def report_study(name: str, study: Study, console: Console) -> Path:
    """Write a study's report and print its table.

    **Returns:** The path of the HTML file.
    """
    from flows.ablation import write_study_pages
    from flows.steps.preflight import study_campaigns

    campaigns = study_campaigns(study)
    write_study_pages(name, study, campaigns, open_store())
    return show_study(name, study, campaigns, console)


def show_study(name: str, study: Study, campaigns: Mapping[str, str], console: Console) -> Path:
    """Print the table of a study whose report has been written.

    **Arguments:**
        campaigns: Arm -> campaign.
    **Returns:** The path of the HTML file.
    """
    from rich.markdown import Markdown

    from flows.ablation import begun
    from flows.reports.study_table import study_markdown, study_rows

    rows = study_rows(open_registry(), begun(campaigns), study)
    console.print(Markdown(study_markdown(rows)))
    return reports_path(name) / "report.html"


def report_efficiency(campaigns: Sequence[str]) -> Path:
    """Write the page that plots score against KL for several campaigns.

    **Returns:** The path of the page.
    **Raises:** LookupError for an unknown campaign.
    """
    from flows.reports.study import write_efficiency_page

    names = {name: name for name in campaigns}
    return write_efficiency_page(open_registry(), names, reports_path("efficiency"))
