"""No secret of the environment is in anything that the platform or a campaign writes or prints.

The platform has a login and an address that other machines reach.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import psutil
import pytest
from helpers import Campaign, campaign_arguments, erpd, migrated, no_process_left, processes_of

pytestmark = [pytest.mark.slow, pytest.mark.long]

MARK = "canary7f3e"
SECRETS = {
    "HF_TOKEN": f"hf_{MARK}hub",
    "JUDGE_KEY": f"sk-{MARK}judge",
    "PGPASSWORD": f"{MARK}postgres",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}storage",
    "RAY_AUTH_TOKEN": f"{MARK}ray".ljust(40, "0"),
    "PREFECT_SERVER_API_AUTH_STRING": f"admin:{MARK}prefect",
    "MLFLOW_TRACKING_USERNAME": "admin",
    "MLFLOW_TRACKING_PASSWORD": f"{MARK}mlflow",
}


@dataclass(frozen=True)
class Ran:
    """A home with a platform that was started with secrets, and a campaign that ran on it."""

    home: Path
    links: dict[str, str]
    listening: set[str]
    answers: dict[str, list[int]]
    without_login: CompletedProcess[str]
    campaign: CompletedProcess[str]
    output: str
    """Output of all commands."""
    arguments: list[str]
    """Command lines of all processes of the platform."""


def elsewhere() -> str:
    """A non-loopback address of this machine, or 0.0.0.0 (all addresses) if it has none."""
    addresses = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family.name == "AF_INET"
    ]
    return next((address for address in addresses if not address.startswith("127.")), "0.0.0.0")


def status(url: str, login: str = "", body: Any = None) -> int:
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    try:
        request = urllib.request.Request(
            url, None if body is None else json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def ran(undisturbed: Campaign, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    # Only looked up: an imported Flask breaks vLLM later in this process.
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip("MLflow's login needs Flask-WTF: pip install -e '.[cluster]'")
    home = migrated(tmp_path_factory.mktemp("secrets") / "home")
    shutil.copytree(undisturbed.home / "store", home / "store")
    host = elsewhere()
    up = erpd("up", "--host", host, "--json", home=home, **SECRETS)
    try:
        assert up.returncode == 0, up.stderr
        links = json.loads(up.stdout)
        processes = processes_of(home)
        listening = {
            c.laddr.ip
            for process in processes
            for c in process.net_connections("inet")
            if c.status == psutil.CONN_LISTEN
        }
        requests = {
            "prefect": (f"{links['prefect_api']}/flows/filter", {}),
            "mlflow": (
                f"{links['mlflow_url']}/api/2.0/mlflow/experiments/search?max_results=5",
                None,
            ),
        }
        logins = {
            "prefect": SECRETS["PREFECT_SERVER_API_AUTH_STRING"],
            "mlflow": f"admin:{SECRETS['MLFLOW_TRACKING_PASSWORD']}",
        }
        answers = {
            name: [status(url, login, body) for login in ("", "admin:guess", logins[name])]
            for name, (url, body) in requests.items()
        }
        small = campaign_arguments(
            "iterations=1", "teacher.steps=4", "teacher.keep=[2]", "distill.steps=2"
        )
        refused = erpd(*small, home=home)
        campaign = erpd(
            *small, home=home, timeout=200, ERPD_MLFLOW_URL=links["mlflow_url"], **SECRETS
        )
        report = erpd("report", "tiny", home=home, **SECRETS)
        show = erpd("show", "tiny", home=home, **SECRETS)
        ended = (up, refused, campaign, report, show)
        output = "".join(done.stdout + done.stderr for done in ended)
        arguments = [" ".join(process.cmdline()) for process in processes]
        yield Ran(home, links, listening, answers, refused, campaign, output, arguments)
    finally:
        erpd("down", home=home)
        assert no_process_left(home) == []


def test_both_servers_listen_where_asked_and_want_a_login(ran: Ran):
    assert {
        url.partition("//")[2].rpartition(":")[0]
        for url in (ran.links["prefect_ui"], ran.links["mlflow_url"])
    } <= {
        elsewhere(),
        "127.0.0.1",
    }
    assert elsewhere() in ran.listening and ran.listening <= {elsewhere(), "127.0.0.1", "::1"}
    assert ran.answers == {"prefect": [401, 401, 200], "mlflow": [401, 401, 200]}


def test_a_run_without_the_login_is_told_so_and_one_with_it_goes_through(ran: Ran):
    assert (
        ran.without_login.returncode == 2 and "PREFECT_API_AUTH_STRING" in ran.without_login.stderr
    )
    assert "Traceback" not in ran.without_login.stderr
    assert ran.campaign.returncode == 0, ran.campaign.stderr
    assert json.loads(ran.campaign.stdout)["status"] == "completed"


def test_no_secret_is_in_what_was_written_or_printed(ran: Ran):
    """Every byte in the home is checked: Prefect's and MLflow's databases, logs, reports,
    artifacts, the registry.
    """
    assert (ran.home / "prefect" / "prefect.db").exists() and (
        ran.home / "mlflow" / "mlflow.db"
    ).exists()
    read = [path for path in ran.home.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(read) > 150 and any(path.name == "report.html" for path in read)
    assert [str(path) for path in read if MARK.encode() in path.read_bytes()] == []
    assert MARK not in ran.output
    encoded = base64.b64encode(SECRETS["PREFECT_SERVER_API_AUTH_STRING"].encode())
    assert [str(path) for path in read if encoded in path.read_bytes()] == []


def test_no_secret_is_in_a_command_line(ran: Ran):
    assert len(ran.arguments) >= 3 and not any(MARK in line for line in ran.arguments)
