"""Deployed flows on the real platform: forms, queue, display, decisions, cancelling, schedules."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import SHRUNK, Campaign, erpd, migrated, no_process_left, processes_of, wait_until

from tasks.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
PATIENCE = 400.0


@dataclass(frozen=True)
class Platform:
    """`erpd up` with a separate home; requests go to the API that Prefect's UI uses."""

    home: Path
    links: dict[str, str]

    def api(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.links["prefect_api"] + path, data, {"Content-Type": "application/json"}
        )
        for _ in range(5):
            try:
                with urllib.request.urlopen(request, timeout=120) as response:
                    text = response.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if error.code != 503:  # SQLite is busy: retry, as Prefect's own clients do
                    raise
            time.sleep(1)
        raise AssertionError(f"{path}: the server was busy five times")

    def deployment(self, name: str) -> dict[str, Any]:
        return self.api(f"/deployments/name/{name}")

    def start(self, name: str, /, **parameters: Any) -> str:
        """Create a flow run as a form with these parameters does; returns its id."""
        return self.api(
            f"/deployments/{self.deployment(name)['id']}/create_flow_run",
            {"parameters": parameters},
        )["id"]

    def refusal(self, name: str, /, **parameters: Any) -> str:
        """The server's response to invalid parameters."""
        with pytest.raises(urllib.error.HTTPError) as caught:
            self.start(name, **parameters)
        assert 400 <= caught.value.code < 500
        return caught.value.read().decode()

    def run(self, id: str) -> dict[str, Any]:
        return self.api(f"/flow_runs/{id}")

    def until(self, id: str, *states: str, patience: float = PATIENCE) -> dict[str, Any]:
        """Wait until the run is in one of these states (names); returns the run.

        Fails if it ends in another state.
        """
        ends = ("Completed", "Failed", "Crashed", "Cancelled")
        wait_until(lambda: self.run(id)["state"]["name"] in (*states, *ends), patience)
        run = self.run(id)
        assert run["state"]["name"] in states, (
            run["name"],
            run["state"]["name"],
            run["state"]["message"],
            self.log(id),
        )
        return run

    @contextmanager
    def cancelling(self, id: str) -> Iterator[str]:
        """Cancel the run at the end of the block, because later runs would queue behind it."""
        try:
            yield id
        finally:
            self.api(
                f"/flow_runs/{id}/set_state",
                {"state": {"type": "CANCELLING", "name": "Cancelling"}},
            )

    def until_at(self, id: str, label: str) -> None:
        """Wait until the run's log contains this stage's label."""
        wait_until(
            lambda: (
                label in self.log(id)
                or self.run(id)["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED")
            ),
            PATIENCE,
        )
        assert label in self.log(id), (self.run(id)["state"]["message"], self.log(id))

    def artifacts(self, id: str) -> dict[str, dict[str, Any]]:
        """Key -> artifact of a flow run. Each key occurs once, because updates are in place."""
        listed = self.api(
            "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [id]}}, "limit": 200}
        )
        keys = [artifact["key"] for artifact in listed]
        assert len(keys) == len(set(keys)), keys
        return {artifact["key"]: artifact for artifact in listed}

    def children(self, id: str) -> list[dict[str, Any]]:
        return self.api(
            "/flow_runs/filter",
            {"flow_runs": {"parent_flow_run_id": {"any_": [id]}}, "sort": "START_TIME_ASC"},
        )

    def log(self, id: str) -> str:
        lines = self.api(
            "/logs/filter",
            {"logs": {"flow_run_id": {"any_": [id]}}, "sort": "TIMESTAMP_ASC", "limit": 200},
        )
        return "\n".join(line["message"] for line in lines)

    def status_of(self, seed: int) -> str:
        """The registry's status of the campaign with this seed."""
        with self.registry() as registry:
            (campaign,) = [row for row in registry.campaigns() if row.config["seed"] == seed]
        return campaign.status

    def registry(self) -> AbstractContextManager[Registry]:
        return closing(Registry(f"sqlite:///{self.home / 'registry.db'}"))


@pytest.fixture(scope="module")
def platform(undisturbed: Campaign) -> Iterator[Platform]:
    """A platform whose home has the undisturbed campaign's artifacts, so equal stages are cached.

    The home's path is short enough for Ray's sockets.
    """
    folder = tempfile.TemporaryDirectory(prefix="erpd-")
    home = migrated(Path(folder.name) / "h")
    shutil.copytree(undisturbed.home / "store", home / "store")
    done = erpd("up", "--json", home=home)
    try:
        assert done.returncode == 0, done.stderr
        yield Platform(home, json.loads(done.stdout))
    finally:
        erpd("down", home=home)
    assert no_process_left(home) == []
    folder.cleanup()


def shrunk(*changes: str, **more: Any) -> dict[str, Any]:
    """Parameter `what` of the form, for the shrunk campaign."""
    return {
        "kind": "recipe",
        "recipe": "tiny",
        **more,
        "changes": [*SHRUNK, "runtime.ray=off", *changes],
    }


NAMES = {
    "iteration": "next-iteration/iteration",
    "campaign": "campaign/campaign",
    "online": "online/online",
    "ablation": "ablation/ablation",
    "evaluation": "evaluation/evaluation",
    "report": "report/report",
}


def test_six_deployments_are_served_and_their_forms_say_what_they_ask(platform: Platform):
    for name in NAMES.values():
        deployment = platform.deployment(name)
        schema = deployment["parameter_openapi_schema"]
        assert (
            deployment["description"]
            and "erpd" in deployment["tags"]
            and deployment["enforce_parameter_schema"]
        ), name
        assert all(field.get("title") for field in schema["properties"].values()), (
            name,
            schema["properties"],
        )
    forms = platform.deployment("campaign/campaign")["parameter_openapi_schema"]["definitions"]
    recipe = forms["FromRecipe"]["properties"]
    assert {"tiny", "smollm2", "paper"} & set(recipe["recipe"]["enum"]) and "table1" not in recipe[
        "recipe"
    ]["enum"]
    assert recipe["seed"]["description"] == "Another seed is another campaign."
    assert all(field.get("title") for field in recipe.values())


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"what": {"kind": "recipe", "recipe": "no-such-recipe"}}, "no-such-recipe"),
        ({"what": {"kind": "recipe", "recipe": "tiny", "iterations": 0}}, "0"),
        ({"what": {"kind": "recipe", "recipe": "tiny", "decision": "perhaps"}}, "perhaps"),
        ({"what": {"kind": "recipe", "recipe": "tiny", "colour": "red"}}, "colour"),
    ],
)
def test_what_a_form_cannot_mean_is_refused_before_a_run_is_made(
    platform: Platform, parameters: dict[str, Any], said: str
):
    before = platform.api("/flow_runs/count", {})
    assert said in platform.refusal("campaign/campaign", **parameters)
    assert platform.api("/flow_runs/count", {}) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("teacher.stepz=3", "teacher.stepz"),
        pytest.param("seed", "write key.path=value", marks=pytest.mark.long),
    ],
)
def test_what_only_the_whole_config_can_tell_fails_in_one_line(
    platform: Platform, change: str, said: str
):
    id = platform.start(
        "campaign/campaign", what={"kind": "recipe", "recipe": "tiny", "changes": [change]}
    )
    message = platform.until(id, "Failed")["state"]["message"]
    assert said in message and "\n" not in message, message


@pytest.mark.long
def test_a_campaign_shows_its_iterations_stages_and_pictures(platform: Platform):
    ended = platform.until(
        id := platform.start("campaign/campaign", what=shrunk(iterations=2)), "Completed"
    )
    with platform.registry() as registry:
        (campaign,) = [row for row in registry.campaigns() if row.id == ended["name"]]
        assert campaign.status == "completed" and len(registry.iterations(campaign.id)) == 2
    assert [run["name"] for run in platform.children(id)] == ["iteration-1", "iteration-2"]
    shown = platform.artifacts(id)
    assert (
        shown["campaign-progress"]["data"] == 100.0
        and shown["campaign-progress"]["type"] == "progress"
    )
    stages = {
        (row["iteration"], row["stage"]): row["status"]
        for row in json.loads(shown["stages"]["data"])
    }
    assert stages["1", "sample the fixed batch"] in ("cached", "finished") and len(stages) > 20
    assert (
        platform.links["mlflow_url"] in shown["mlflow"]["data"]
        and "compareRunsMode=CHART" in shown["mlflow"]["data"]
    )
    pictures = [
        artifact
        for artifact in shown.values()
        if artifact["type"] == "image" or "data:image" in str(artifact["data"])
    ]
    assert pictures, sorted(shown)
    assert "2: decided " in platform.log(id) and "wins among 2 policies" in platform.log(id)


@pytest.mark.long
def test_iterations_are_added_one_by_one_and_meet_in_one_campaign(platform: Platform):
    """Two runs with the same parameters, started together: the second waits, finds the first one's
    iteration, and adds another.
    """
    first, second = (
        platform.start("next-iteration/iteration", what=shrunk("seed=5")) for _ in range(2)
    )
    ran = [platform.until(id, "Completed") for id in (first, second)]
    assert ran[0]["name"] == ran[1]["name"]
    earlier, later = sorted(ran, key=lambda run: run["start_time"])
    assert later["start_time"] >= earlier["end_time"], "one runs at a time, the other queues"
    with platform.registry() as registry:
        assert [iteration.index for iteration in registry.iterations(ran[0]["name"])] == [1, 2]


@pytest.mark.long
def test_a_long_wait_gives_its_place_back_and_goes_on_where_it_was(platform: Platform):
    """A deployed campaign that waits for a decision is suspended: its process ends and another run
    proceeds. The decision resumes it.
    """
    asking = shrunk("seed=6", "runtime.pause_seconds=0", decision="ask", iterations=1)
    id = platform.start("campaign/campaign", what=asking)
    platform.until(id, "Suspended")
    campaign = next((platform.home / "waiting").glob("*.json")).name.removesuffix("-1.json")
    other = platform.start(
        "evaluation/evaluation", what={"model": "tiny", "benchmarks": ["tiny"], "k": 1, "count": 8}
    )
    platform.until(other, "Completed")
    assert "AVG@K" in platform.artifacts(other)["evaluation"]["data"]
    done = erpd(
        "decide",
        campaign,
        "--strategy",
        "stop",
        "--by",
        "Ada",
        "--why",
        "enough",
        home=platform.home,
    )
    assert done.returncode == 0, done.stderr
    platform.until(id, "Completed")
    with platform.registry() as registry:
        (iteration,) = registry.iterations(campaign)
        asked = iteration.decision.evidence["asked"]
        assert (iteration.decision.strategy, asked["by"], asked["why"]) == ("stop", "Ada", "enough")
        assert registry.campaign(campaign).status == "completed"
    assert not list((platform.home / "waiting").glob("*.json"))


@pytest.mark.long
def test_cancelling_stops_the_workers_and_leaves_nothing_behind(platform: Platform):
    # processes of an earlier run may still be ending
    before = {process.pid for process in processes_of(platform.home)}
    started = platform.start(
        "campaign/campaign",
        what=shrunk("seed=7", "teacher.steps=4000", "runtime.ray=on", iterations=1),
    )
    with platform.cancelling(started) as id:
        platform.until_at(id, "train teacher")
        assert {process.pid for process in processes_of(platform.home)} - before
    platform.until(id, "Cancelled")
    assert wait_until(
        lambda: {process.pid for process in processes_of(platform.home)} <= before, 60
    ), [process.cmdline() for process in processes_of(platform.home) if process.pid not in before]
    assert wait_until(lambda: platform.status_of(7) == "killed", 30), platform.status_of(7)


def kill_a_run(platform: Platform, seed: int) -> None:
    """Start a campaign, kill its process while it trains, and wait until it is Crashed."""
    started = platform.start(
        "campaign/campaign", what=shrunk(f"seed={seed}", "teacher.steps=4000", iterations=1)
    )
    with platform.cancelling(started) as id:
        platform.until_at(id, "train teacher")
        for process in processes_of(platform.home):
            if process.environ().get("PREFECT__FLOW_RUN_ID", "").replace("-", "") == id.replace(
                "-", ""
            ):
                process.send_signal(signal.SIGKILL)
        platform.until(id, "Crashed")


@pytest.mark.long
def test_a_run_whose_process_dies_is_crashed(platform: Platform):
    kill_a_run(platform, seed=8)
    assert wait_until(lambda: platform.status_of(8) == "killed", 30), platform.status_of(8)


@pytest.mark.long
def test_a_schedule_is_kept_shown_run_and_removed(platform: Platform):
    arguments = [
        part for change in (*SHRUNK, "runtime.ray=off", "seed=9") for part in ("--set", change)
    ]
    made = erpd(
        "schedule",
        "tiny",
        "--cron",
        "0 2 * * *",
        "--timezone",
        "Europe/Vienna",
        *arguments,
        home=platform.home,
    )
    assert (made.returncode, made.stdout) == (0, "scheduled iteration-tiny\n"), made.stderr
    again = erpd("schedule", "tiny", "--every", 12, *arguments, home=platform.home)
    assert again.returncode == 0, again.stderr
    (kept,) = platform.deployment("next-iteration/iteration")["schedules"]
    assert (
        kept["schedule"]["interval"] == 12 * 3600
        and "seed=9" in kept["parameters"]["what"]["changes"]
    )
    assert "iteration-tiny" in erpd("schedule", home=platform.home, COLUMNS="200").stdout
    wanted = {
        "deployments": {"name": {"any_": ["iteration"]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    assert wait_until(lambda: platform.api("/flow_runs/filter", wanted), 90), (
        "the server schedules its runs"
    )
    planned = platform.api("/flow_runs/filter", wanted)[0]
    assert "seed=9" in planned["parameters"]["what"]["changes"] and planned["auto_scheduled"]
    removed = erpd("schedule", "--remove", "iteration-tiny", home=platform.home)
    assert (removed.returncode, removed.stdout) == (0, "removed iteration-tiny\n"), removed.stderr
    assert platform.deployment("next-iteration/iteration")["schedules"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tiny",), "say when"),
        (("tiny", "--cron", "every night"), "must have cron's five fields"),
        (("tiny", "--cron", "0 2 * * *", "--timezone", "Mars"), "--timezone Mars"),
        (("no-such", "--every", "1"), "no-such"),
        (("tiny", "--every", "1", "--deployment", "report"), "--deployment report"),
        (("--remove", "nothing"), "--remove nothing"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_in_one_line(
    platform: Platform, arguments: tuple[str, ...], said: str
):
    done = erpd("schedule", *arguments, home=platform.home)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, (
        done.stderr
    )


@pytest.mark.long
def test_a_report_is_written_while_a_campaign_runs(platform: Platform):
    with platform.cancelling(
        platform.start(
            "campaign/campaign", what=shrunk("seed=10", "teacher.steps=4000", iterations=1)
        )
    ) as busy:
        platform.until(busy, "Running")
        id = platform.start("report/report", name="tiny")
        platform.until(id, "Completed")
        assert platform.run(busy)["state"]["name"] == "Running"
    assert "student" in platform.artifacts(id)["report"]["data"]


@pytest.mark.long
def test_no_run_stays_running_for_ever(platform: Platform):
    """A killed run cannot end its iteration's flow run. Prefect's automation does, because the
    heartbeat has stopped.
    """
    kill_a_run(platform, seed=9)
    running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
    assert wait_until(lambda: not platform.api("/flow_runs/filter", running), PATIENCE), (
        platform.api("/flow_runs/filter", running)
    )
    crashed = platform.api(
        "/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["CRASHED"]}}}}
    )
    assert {run["state"]["message"] for run in crashed if run["parent_task_run_id"]} == {
        "its process is gone"
    }
    open_tasks = {"task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}}
    assert wait_until(lambda: not platform.api("/task_runs/filter", open_tasks), PATIENCE), (
        "their tasks have ended too"
    )
