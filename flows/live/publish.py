"""Publish a campaign's current report: on disk, in MLflow, and as artifacts of the flow run."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from flows.live.artifacts import LiveArtifact
from flows.reports.campaign import write_report
from flows.reports.results import (
    PolicyRow,
    benchmarks_of,
    interval,
    nats,
    percent,
    summary,
    table_rows,
)
from flows.steps.recorder import CampaignRecorder
from tasks.host.home import reports_path
from tasks.tracking import TrackedRun, Tracker
from tasks.untrusted.display_text import markdown, markdown_table


def publish(recorder: CampaignRecorder) -> None:
    """Write and publish the report in the background; each call replaces the last report.

    Does nothing if a complete campaign is run again and nothing had to be computed.
    """
    written = (reports_path(recorder.campaign) / "report.html").exists()
    if recorder.repeated and not recorder.computed and written:
        return
    recorder.tracking.submit_latest("report", lambda tracker, run: _publish(recorder, tracker, run))


def _publish(recorder: CampaignRecorder, tracker: Tracker, run: TrackedRun) -> None:
    path = write_report(
        recorder.registry, recorder.store, recorder.campaign, reports_path(recorder.campaign)
    )
    tracker.log_artifact(run, path.parent, "report")
    rows = table_rows(recorder.registry, recorder.campaign)
    if best := next((row for row in rows if row.best), None):
        tracker.register_policy(recorder.model, best.report.policy, run, alias="best")
    if (picture := path.parent / "score_vs_kl.png").exists():
        image = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
        # Not an image artifact: the UI prints its address, here the whole picture, below it.
        LiveArtifact("markdown", "score-vs-kl").show(
            f"![Score against KL to the base]({image})", "Score against KL to the base"
        )
    sentences = "\n\n".join(markdown(line) for line in summary(rows))
    report = f"{sentences}\n\n{campaign_markdown(rows)}\n\nThe full report: `{path}`"
    LiveArtifact("markdown", "campaign-report").show(
        report, f"{recorder.campaign}: base, teachers and students"
    )


def campaign_markdown(rows: Sequence[PolicyRow]) -> str:
    """The campaign's table of policies, in Markdown for Prefect's UI."""
    benchmarks = benchmarks_of(rows)
    lines = []
    for row in rows:
        scores = [
            f"{percent(s.avg)} {interval(s)}" if (s := row.report.scores.get(name)) else ""
            for name in benchmarks
        ]
        figures = [
            nats(row.report.kl_old),
            nats(row.report.kl_base),
            nats(row.report.entropy),
            f"{row.report.length:.1f}",
        ]
        lines.append([row.name, row.strategy if row.role == "student" else "", *scores, *figures])
    return markdown_table(
        ["policy", "signal", *benchmarks, "KL old", "KL base", "entropy", "length"], lines
    )
