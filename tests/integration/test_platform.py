"""`erpd up`, `status`, `down`: servers on loopback.

They respond, are found again, show runs, and end without leaving anything.
"""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import (
    Campaign,
    erpd,
    events,
    migrated,
    no_process_left,
    numbers,
    processes_of,
    run_campaign,
)

pytestmark = pytest.mark.slow


def fetch(url: str, body: dict[str, Any] | None = None) -> Any:
    request = urllib.request.Request(
        url,
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        data = response.read()
    return json.loads(data) if data.lstrip()[:1] in (b"{", b"[") else data


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, undisturbed: Campaign) -> Path:
    """A home with the undisturbed campaign's artifacts, so that campaigns in it are quick."""
    folder = tmp_path_factory.mktemp("platform")
    home = migrated(folder / "home")
    shutil.copytree(undisturbed.home / "store", home / "store")
    return home


@pytest.fixture(scope="module")
def links(home: Path):
    done = erpd("up", "--json", home=home)
    try:
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1
        yield json.loads(done.stdout)
    finally:
        erpd("down", home=home)


@pytest.fixture(scope="module")
def campaign(home: Path, links: dict[str, str], undisturbed: Campaign) -> Campaign:
    return run_campaign(home.parent, arguments=undisturbed.arguments)


def test_up_prints_links_that_answer(links: dict[str, str]):
    assert set(links) == {"prefect_ui", "prefect_api", "mlflow_url"}
    assert all(url.startswith("http://127.0.0.1:") for url in links.values())
    assert b"<html" in fetch(links["prefect_ui"]).lower()
    assert (
        fetch(links["prefect_api"] + "/health") is True
        or fetch(links["prefect_api"] + "/health") == b"true"
    )
    assert b"<html" in fetch(links["mlflow_url"]).lower()


def test_servers_listen_on_loopback_only(home: Path, links: dict[str, str]):
    listening = [
        c.laddr.ip
        for process in processes_of(home)
        for c in process.net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    ]
    assert listening and set(listening) <= {"127.0.0.1", "::1"}


def test_a_second_up_finds_the_first(home: Path, links: dict[str, str]):
    before = {process.pid for process in processes_of(home)}
    again = erpd("up", "--json", home=home)
    assert again.returncode == 0 and json.loads(again.stdout) == links
    assert {process.pid for process in processes_of(home)} <= before


def test_status_says_what_runs(home: Path, links: dict[str, str]):
    done = erpd("status", home=home)
    assert done.returncode == 0
    assert "True" in done.stdout and all(url in done.stdout for url in links.values())


def test_a_run_uses_the_platform_and_its_stages_show_as_cached(
    home: Path, links: dict[str, str], campaign: Campaign, undisturbed: Campaign
):
    result = campaign.result
    assert numbers(result) == numbers(undisturbed.result)
    flows = fetch(links["prefect_api"] + "/flow_runs/filter", {})
    assert {(run["name"], run["state"]["type"]) for run in flows} >= {
        (result["campaign"], "COMPLETED"),
        ("iteration-1", "COMPLETED"),
    }
    tasks = fetch(links["prefect_api"] + "/task_runs/filter", {"limit": 200})
    shown = {task["name"]: (task["state"]["name"], task["state"]["type"]) for task in tasks}
    cached = {event["label"] for event in events(home) if event.get("status") == "cached"}
    assert cached and {shown[label] for label in cached} == {("Cached", "COMPLETED")}
    assert not [event for event in events(home) if event.get("status") == "started"]


def test_the_link_in_the_json_opens_the_campaigns_page(links: dict[str, str], campaign: Campaign):
    url = campaign.result["mlflow_url"]
    assert url.startswith(links["mlflow_url"])
    run = url.rpartition("/runs/")[2]
    shown = fetch(links["mlflow_url"] + f"/api/2.0/mlflow/runs/get?run_id={run}")["run"]
    assert shown["info"]["status"] == "FINISHED"
    assert {tag["key"]: tag["value"] for tag in shown["data"]["tags"]}[
        "erpd.campaign"
    ] == campaign.result["campaign"]
    assert {metric["key"] for metric in shown["data"]["metrics"]} >= {"score/test", "kl/base"}


@pytest.mark.long
def test_a_server_that_died_is_noticed_and_replaced(
    home: Path, links: dict[str, str], campaign: Campaign
):
    server = json.loads((home / "platform.json").read_text())["prefect"]["pid"]
    for process in [*psutil.Process(server).children(recursive=True), psutil.Process(server)]:
        process.kill()
    psutil.wait_procs(
        [psutil.Process(pid) for pid in [server] if psutil.pid_exists(pid)], timeout=5
    )
    assert "False" in erpd("status", home=home).stdout
    again = json.loads(erpd("up", "--json", home=home).stdout)
    assert again["prefect_ui"] != links["prefect_ui"]
    assert fetch(again["prefect_api"] + "/health") in (True, b"true")
    flows = fetch(again["prefect_api"] + "/flow_runs/filter", {})
    names = {run["name"] for run in flows}
    assert campaign.result["campaign"] in names, "the old server's runs"


def test_down_leaves_no_process_and_can_be_said_again(
    home: Path, links: dict[str, str], campaign: Campaign
):
    """Stops the platform, so it must come after the tests that use it."""
    server = json.loads((home / "platform.json").read_text())["prefect"]["url"]
    done = erpd("down", home=home)
    assert done.returncode == 0 and "3" in done.stdout
    assert no_process_left(home) == []
    with pytest.raises(OSError):
        fetch(server)
    assert erpd("down", home=home).returncode == 0
    assert "False" in erpd("status", home=home).stdout
