"""The timeline of a campaign as text: a sentence on idle time, and a row for each session.

Nothing here imports torch or matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flows.reports.results import percent
from tasks.execution.timeline import Timeline

HOURS_FROM = 7200.0
"""Seconds from which a time is shown in hours."""


@dataclass(frozen=True)
class SessionRow:
    """A session in the report's table.

    **Example:** `SessionRow("2026-11-30 14:45:12 UTC", "258.5", "2 CPUs", "54", "0", "9.8", ...)`
    """

    began: str
    gap: str
    """Time since the session before; empty for the first one."""
    seconds: str
    offered: str
    stages: int
    """Number of stages that finished."""
    cut: int
    """Number of stages that began and did not finish."""
    cached: int
    """Number of stages found in the store."""
    start_up: str
    """Seconds."""
    close_down: str
    """Seconds."""
    idle: str
    """Share of the resource-seconds, in %."""


def span(seconds: float) -> str:
    """A length of time: in seconds, or in hours if it is long."""
    return f"{seconds / 3600:,.1f} h" if seconds >= HOURS_FROM else f"{seconds:.0f} s"


def offered(capacity: Sequence[float], unit: str) -> str:
    """What nodes offer.

    **Arguments:**
        capacity: What each node offers, in `unit`.
    """
    total = sum(capacity)
    amount = f"{total:g} {unit}{'' if total == 1 else 's'}"
    return amount if len(capacity) == 1 else f"{amount} on {len(capacity)} nodes"


def headline(timeline: Timeline) -> str:
    """The length and the idle share of a campaign, as the title of its picture."""
    count = len(timeline.sessions)
    sessions = "1 session" if count == 1 else f"{count} sessions"
    return f"Timeline: {span(timeline.seconds)} in {sessions}, {percent(timeline.idle)} % idle"


def idle_sentence(timeline: Timeline) -> str:
    """What share of the machine no stage held, and when."""
    parts = {"start-up": timeline.start_up, "close-down": timeline.close_down}
    known = {name: share for name, share in parts.items() if share is not None}
    rest = timeline.idle - sum(known.values())
    places = "between stages or next to them"
    shares = ", ".join(f"{percent(share)} % in {name}" for name, share in known.items())
    split = f" ({shares}, {percent(max(0.0, rest))} % {places})" if known else ""
    whole = {
        offered(list(session.capacity.values()), timeline.unit) for session in timeline.sessions
    }
    machine = f" on {whole.pop()}" if len(whole) == 1 else ""
    count = len(timeline.sessions)
    sessions = "" if count == 1 else f" in {count} sessions, not counting the time between them"
    return (
        f"Idle: {percent(timeline.idle)} % of the {timeline.unit}-seconds{split}, "
        f"over {span(timeline.seconds)}{machine}{sessions}."
    )


def session_rows(timeline: Timeline) -> list[SessionRow]:
    """A row for each session."""
    rows = []
    before: float | None = None
    for session in timeline.sessions:
        finished = sum(run.finished for run in session.runs)
        rows.append(
            SessionRow(
                began=f"{datetime.fromtimestamp(session.began, UTC):%Y-%m-%d %H:%M:%S} UTC",
                gap="" if before is None else span(max(0.0, session.began - before)),
                seconds=f"{session.seconds:.1f}",
                offered=offered(list(session.capacity.values()), timeline.unit),
                stages=finished,
                cut=len(session.runs) - finished,
                cached=len(session.cached),
                start_up=_seconds(session.start_up),
                close_down=_seconds(session.close_down),
                idle=percent(session.idle),
            )
        )
        before = session.ended
    return rows


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
