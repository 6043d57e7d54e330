"""No script runs in a report that contains hostile texts, opened from its file in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from erpd_core.refs import Decision
from flows.recipes.load import load_recipe
from flows.reports.campaign import write_report
from tasks.registry import Registry
from tasks.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Page

SPRUNG = "window.sprung = 1"
TEXT = (
    f"</pre></script><script>{SPRUNG}</script><img src=x onerror='{SPRUNG}'><a "
    f'href="javascript:{SPRUNG}">" onfocus=\'{SPRUNG}\''
)


def test_no_script_of_a_report_runs(page: Page, tmp_path: Path):
    registry = Registry(f"sqlite:///{tmp_path}/registry.db")
    registry.campaign_started(
        "tiny-1",
        "tiny",
        "tiny",
        load_recipe("tiny").model_dump(mode="json") | {"description": TEXT},
    )
    registry.record_decision(
        "tiny-1",
        1,
        Decision(strategy="S1", reason=TEXT, evidence={TEXT: TEXT}, alternatives={"S2": TEXT}),
    )
    path = write_report(registry, Store(tmp_path / "store"), "tiny-1", tmp_path / "out")
    errors: list[str] = []
    page.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    assert TEXT in str(page.text_content("body"))
    assert (
        page.evaluate("typeof window.sprung") == "undefined" and page.locator("script").count() == 0
    )
    assert errors == []
