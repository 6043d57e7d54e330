"""A campaign whose batch has nothing to teach ends with one line, wherever it is looked at; one
that is mended goes on.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from helpers import Campaign, campaign_arguments, events, no_process_left, run_campaign

from tasks.registry import Registry
from tasks.store import Store

pytestmark = pytest.mark.slow

HOPELESS = "sampling.max_new_tokens=1"
"""Too few for an answer: every response of the fixed batch is cut, none is right."""
SMALL = (
    "evaluation.validation.count=8",
    "evaluation.benchmarks.test.count=8",
    "teacher.steps=4",
    "teacher.keep=[]",
    "distill.steps=2",
)


@pytest.fixture(scope="module")
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return run_campaign(tmp_path_factory.mktemp("hopeless"), *SMALL, HOPELESS)


def asked(database: Path, query: str) -> list[tuple[str, ...]]:
    """Rows of a SQLite database that a server, stopped by now, has left."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def test_it_ends_with_exit_code_1_and_one_line(hopeless: Campaign):
    assert (hopeless.done.returncode, hopeless.done.stdout) == (1, "")
    said = [line for line in hopeless.done.stderr.splitlines() if line.startswith("erpd:")]
    assert len(said) == 1 and "Traceback" not in said[0]
    assert said[0].startswith(
        "erpd: the run ends: teacher training: ce learns from right responses, and there is none "
        "(of 384 responses 0"
    )
    assert (
        "raise sampling.max_new_tokens: most responses are cut before they end; the same command "
        "goes on" in said[0]
    )
    assert not (hopeless.home / "logs" / "failure.log").exists()
    assert no_process_left(hopeless.home) == []


def test_progress_tells_what_the_batch_holds_and_why_it_ended(hopeless: Campaign):
    said = [event["label"] for event in events(hopeless.home) if event.get("status") == "said"]
    assert any(
        one.startswith("1: of 384 responses 0 are right, 384 wrong, 384 cut at the limit, 0 empty")
        for one in said
    )
    assert any(one.startswith("ends: teacher training: ") for one in said)


def test_registry_prefect_and_mlflow_say_that_it_failed_and_why(hopeless: Campaign):
    book = Registry(f"sqlite:///{hopeless.home / 'registry.db'}")
    (campaign,) = book.campaigns()
    book.close()
    assert campaign.status == "failed" and campaign.finished_at is not None
    prefect = hopeless.home / "prefect" / "prefect.db"
    flows = asked(
        prefect,
        "SELECT r.name, s.type, s.message FROM flow_run r JOIN flow_run_state s ON s.id = "
        "r.state_id",
    )
    assert {kind for _, kind, _ in flows} == {"FAILED"} and campaign.id in {
        name for name, _, _ in flows
    }
    assert all(
        "teacher training: ce learns from right responses" in message for _, _, message in flows
    )
    query = (
        "SELECT s.type, s.message FROM task_run t JOIN task_run_state s ON s.id = t.state_id "
        "WHERE t.name LIKE '%train teacher%'"
    )
    ((kind, message),) = asked(prefect, query)
    assert kind == "FAILED" and "ce learns from right responses" in message
    query = (
        "SELECT r.status, t.value FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid WHERE "
        "t.key = 'fault'"
    )
    ((status, fault),) = asked(hopeless.home / "mlflow" / "mlflow.db", query)
    assert status == "FAILED" and "raise sampling.max_new_tokens" in fault


@pytest.mark.long
def test_mended_it_goes_on_from_what_is_done(hopeless: Campaign):
    kept = Store(hopeless.home / "store").artifacts("evaluation")
    assert kept, "the base was evaluated before the batch was looked at"
    mended = run_campaign(hopeless.folder, arguments=campaign_arguments(*SMALL))
    assert mended.result["status"] == "completed"
    told = [
        event
        for event in events(hopeless.home, mended.result["campaign"])
        if event["label"].startswith("0: evaluate base")
    ]
    assert [event["status"] for event in told if "status" in event] == ["cached"]
