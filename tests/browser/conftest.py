"""Fixtures of the browser tests: Chromium, the platform, submitted campaigns, pictures.

The platform is the real one (`erpd up`) with a separate home. Campaigns are submitted by the form.
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
    *(change for change in SHRUNK if not change.startswith("distill.steps")),
    "distill.steps=24",
    "weak_teacher.steps=12",
    "weak_teacher.minibatch=32",
    "runtime.ray=off",
]
"""Entries of the form's list of changes, which make a campaign of seconds."""

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
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def home(browser: Browser) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="erpd-", ignore_cleanup_errors=True) as folder:
        yield migrated(Path(folder) / "h")


@pytest.fixture(scope="module")
def links(home: Path) -> Iterator[dict[str, str]]:
    """The links that `erpd up` prints. At the end no process may be left."""
    done = erpd("up", "--json", home=home)
    try:
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout)
    finally:
        erpd("down", home=home)
    assert no_process_left(home) == []


@pytest.fixture(scope="module")
def new_page(browser: Browser) -> NewPage:
    """Opens a page with a new browser profile."""

    def make() -> Page:
        context = browser.new_context(viewport=SIZE)  # type: ignore[arg-type]
        context.set_default_timeout(30_000)
        return context.new_page()

    return make


@pytest.fixture
def page(new_page: NewPage) -> Iterator[Page]:
    page = new_page()
    yield page
    page.context.close()


@pytest.fixture
def prefect(page: Page, links: dict[str, str]) -> Prefect:
    from prefect_pages import Prefect

    return Prefect(page, links["prefect_ui"])


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Photograph:
    """Saves a screenshot of a page in the folder `ERPD_PICTURES`, or in a temporary one."""
    folder = Path(os.environ.get("ERPD_PICTURES") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)

    def save(page: Page, name: str) -> None:
        page.wait_for_timeout(1000)  # until pages have faded in and graphs have settled
        page.screenshot(path=folder / f"{name}.png")

    return save


@pytest.fixture(scope="module")
def submitted(new_page: NewPage, links: dict[str, str], photograph: Photograph) -> str:
    """The flow run of a campaign that was started with the form."""
    with custom_run(new_page(), links) as prefect:
        prefect.choose("Recipe", "tiny")
        prefect.fill("Iterations", 2)
        photograph(prefect.page, "form")
        prefect.add("Changes", CHANGES)
        return prefect.submitted()


@pytest.fixture(scope="module")
def undecided(new_page: NewPage, links: dict[str, str], submitted: str) -> str:
    """The flow run of another campaign, whose decision a user makes.

    It waits until the first one has ended.
    """
    with custom_run(new_page(), links) as prefect:
        prefect.fill("Iterations", 1)
        prefect.choose("Decision", "ask")
        prefect.add("Changes", CHANGES)
        return prefect.submitted()


@contextmanager
def custom_run(page: Page, links: dict[str, str]) -> Iterator[Prefect]:
    """The form of a campaign, opened on this page."""
    from prefect_pages import Prefect

    prefect = Prefect(page, links["prefect_ui"])
    prefect.custom_run("campaign")
    yield prefect
    page.context.close()


@pytest.fixture(scope="module")
def campaigns(
    new_page: NewPage, links: dict[str, str], submitted: str, undecided: str
) -> list[str]:
    """Names of the two finished campaigns. An earlier test makes the decision of the second one."""
    from prefect_pages import Prefect

    prefect = Prefect(new_page(), links["prefect_ui"])
    for run in (submitted, undecided):
        prefect.wait_for(run, "Completed")
    return [prefect.api(f"/flow_runs/{run}")["name"] for run in (submitted, undecided)]
