"""Prefect's UI as a user sees it: forms, runs, and the dialog that asks for a decision."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Locator, Page, expect

ENDED = ("Completed", "Failed", "Crashed", "Cancelled")


@dataclass(frozen=True)
class Prefect:
    """A browser page and the URL of the server whose UI it shows."""

    page: Page
    url: str

    def open(self, path: str) -> None:
        self.page.goto(self.url + path)

    # ---------------------------------------------------------------------------------------- forms

    def open_deployment(self, name: str) -> None:
        """Open a deployment's page through the list of deployments."""
        self.open("/deployments")
        self.page.get_by_role("row").get_by_role("link", name=name, exact=True).first.click()

    def custom_run(self, deployment: str) -> None:
        """Open a deployment's form through its button Run."""
        self.open_deployment(deployment)
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_text("Custom run").click()
        expect(self.page.locator(".schema-form-property").last).to_be_visible()

    def field(self, title: str) -> Locator:
        """The field with this title in a form or dialog."""
        label = self.page.get_by_text(re.compile(rf"^{re.escape(title)}( \(Optional\))?$"))
        return self.page.locator(".schema-form-property", has=label).last

    def open_list(self, title: str) -> Locator:
        """Open a field's options with the keyboard: a click would open and close them again."""
        control = self.field(title).locator(".p-select-button__control")
        control.scroll_into_view_if_needed()
        control.press("ArrowDown")
        options = self.page.get_by_role("option")
        expect(options.first).to_be_visible()
        return options

    def choose(self, title: str, option: str) -> None:
        self.open_list(title).get_by_text(option, exact=True).click()
        expect(self.field(title).locator(".p-select-button__value")).to_have_text(option)

    def options(self, title: str) -> list[str]:
        """The options of a field."""
        options = [text.strip() for text in self.open_list(title).all_inner_texts()]
        self.page.keyboard.press("Escape")
        return options

    def fill(self, title: str, value: object) -> None:
        box = self.field(title).locator("input, textarea").last
        box.fill(str(value))
        expect(box).to_have_value(str(value))

    def add(self, title: str, values: Sequence[str]) -> None:
        """Add items to a list."""
        items = self.field(title).locator("textarea")
        for count, value in enumerate(values, items.count()):
            self.field(title).get_by_role("button", name="Add item").click()
            expect(items).to_have_count(count + 1)
            items.last.fill(value)

    def submit(self) -> None:
        self.page.get_by_role("button", name="Submit").click()

    def submit_until(self, done: Callable[[], bool]) -> None:
        """Submit until `done`.

        It repeats after an error of the server, whose SQLite may be busy.
        """
        for _ in range(5):
            self.submit()
            for _ in range(300):
                if done():
                    return
                self.page.wait_for_timeout(100)
        raise AssertionError(self.page.locator("body").aria_snapshot())

    def submitted(self) -> str:
        """Submit, open the run's page by the button of the message that appears; returns its id."""
        self.submit_until(lambda: "tab=Runs" in self.page.url)
        self.page.get_by_role("button", name="View run").first.dispatch_event("click")
        self.page.wait_for_url("**/runs/flow-run/**")
        return re.sub(r".*/flow-run/([0-9a-f-]+).*", r"\1", self.page.url)

    # ----------------------------------------------------------------------------------------- runs

    def open_run(self, id: str, tab: str = "Logs") -> None:
        self.open(f"/runs/flow-run/{id}")
        self.page.get_by_role("tablist").get_by_text(tab, exact=True).click()

    def open_artifact(self, run: str, key: str) -> None:
        """Open the latest artifact with this key through the run's page."""
        wanted = {"flow_run_id": {"any_": [run]}, "key": {"any_": [key]}}
        (latest, *_) = self.api("/artifacts/filter", {"artifacts": wanted, "sort": "UPDATED_DESC"})
        self.open_run(run, "Artifacts")
        self.page.locator(f"a[href$='{latest['id']}']").first.click()

    def wait_for(self, id: str, *states: str, patience: float = 150) -> str:
        """Wait until the run is in one of these states; returns the state.

        It polls the REST API, not the UI, since a test shows nothing while it waits.
        """
        deadline = time.monotonic() + patience
        while (state := self.api(f"/flow_runs/{id}")["state"])["name"] not in (
            *states,
            *ENDED,
        ) and time.monotonic() < deadline:
            time.sleep(1)
        assert state["name"] in states, (state["name"], state["message"])
        return str(state["name"])

    def api(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.url}/api{path}", data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)
