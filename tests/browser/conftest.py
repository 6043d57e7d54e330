"""A browser before the real platform: `erpd up` in a home of its own, Chromium, campaigns
submitted by the form, and where pictures go.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers import SHRUNK, erpd, migrated, no_process_left

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from prefect_pages import Prefect

SIZE = {"width": 1400, "height": 900}
CHANGES = [
    *(one for one in SHRUNK if not one.startswith("distill.steps")),
    "distill.steps=24",
    "weak_teacher.steps=12",
    "weak_teacher.minibatch=32",
    "runtime.ray=off",
]
"""What is typed into the form's list of changes: a campaign of seconds."""

Photograph = Callable[["Page", str], None]
NewPage = Callable[[], "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture(scope="module")
def home(browser: Browser) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="erpd-", ignore_cleanup_errors=True) as folder:
        yield migrated(Path(folder) / "h")


@pytest.fixture(scope="module")
def links(home: Path) -> Iterator[dict[str, str]]:
    """What `erpd up` prints; no process is left at the end."""
    done = erpd("up", "--json", home=home)
    try:
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout)
    finally:
        erpd("down", home=home)
    assert no_process_left(home) == []


@pytest.fixture(scope="module")
def new_page(browser: Browser) -> NewPage:
    """Makes a page of a browser that has seen nothing before."""

    def make() -> Page:
        context = browser.new_context(viewport=SIZE)  # type: ignore[arg-type]
        context.set_default_timeout(30_000)
        return context.new_page()

    return make


@pytest.fixture
def page(new_page: NewPage) -> Iterator[Page]:
    one = new_page()
    yield one
    one.context.close()


@pytest.fixture
def prefect(page: Page, links: dict[str, str]) -> Prefect:
    from prefect_pages import Prefect

    return Prefect(page, links["prefect_ui"])


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Photograph:
    """Saves what a page shows: in the folder that `ERPD_PICTURES` names, else in a temporary
    one.
    """
    folder = Path(os.environ.get("ERPD_PICTURES") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)

    def save(page: Page, name: str) -> None:
        page.wait_for_timeout(1000)  # pages fade in, graphs settle
        page.screenshot(path=folder / f"{name}.png")

    return save


@pytest.fixture(scope="module")
def submitted(new_page: NewPage, links: dict[str, str], photograph: Photograph) -> str:
    """The flow run of a campaign that was asked for by filling in the form."""
    with custom_run(new_page(), links) as prefect:
        prefect.choose("Recipe", "tiny")
        prefect.fill("Iterations", 2)
        photograph(prefect.page, "form")
        prefect.add("Changes", CHANGES)
        return prefect.submitted()


@pytest.fixture(scope="module")
def asked(new_page: NewPage, links: dict[str, str], submitted: str) -> str:
    """The flow run of another campaign, whose decision a person takes. It waits until the first
    one is through.
    """
    with custom_run(new_page(), links) as prefect:
        prefect.fill("Iterations", 1)
        prefect.choose("Decision", "ask")
        prefect.add("Changes", CHANGES)
        return prefect.submitted()


@contextmanager
def custom_run(page: Page, links: dict[str, str]) -> Iterator[Prefect]:
    """The form of a campaign, opened on a page of its own."""
    from prefect_pages import Prefect

    prefect = Prefect(page, links["prefect_ui"])
    prefect.custom_run("campaign")
    yield prefect
    page.context.close()


@pytest.fixture(scope="module")
def campaigns(new_page: NewPage, links: dict[str, str], submitted: str, asked: str) -> list[str]:
    """Names of the two campaigns, finished: the second one's decision is taken by the test
    before.
    """
    from prefect_pages import Prefect

    prefect = Prefect(new_page(), links["prefect_ui"])
    for run in (submitted, asked):
        prefect.wait_for(run, "Completed")
    return [prefect.api(f"/flow_runs/{run}")["name"] for run in (submitted, asked)]
