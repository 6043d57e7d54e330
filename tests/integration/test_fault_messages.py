"""A campaign whose batch carries no learning signal ends with one line everywhere it is shown.

Once its config is fixed, it resumes.
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
"""Too few tokens for an answer: every response of the fixed batch is cut, none is right."""
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


def query_rows(database: Path, query: str) -> list[tuple[str, ...]]:
    """Rows of a SQLite database whose server has been stopped."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()


def test_it_ends_with_exit_code_1_and_one_line(hopeless: Campaign):
    assert (hopeless.done.returncode, hopeless.done.stdout) == (1, "")
    messages = [line for line in hopeless.done.stderr.splitlines() if line.startswith("erpd:")]
    assert len(messages) == 1 and "Traceback" not in messages[0]
    assert messages[0].startswith(
        "erpd: the run ends: teacher training: ce learns from right responses, and there is none "
        "(of 384 responses 0"
    )
    assert (
        "raise sampling.max_new_tokens: most responses are cut before they end; rerun the same "
        "command to resume" in messages[0]
    )
    assert not (hopeless.home / "logs" / "failure.log").exists()
    assert no_process_left(hopeless.home) == []


def test_progress_tells_what_the_batch_holds_and_why_it_ended(hopeless: Campaign):
    notices = [event["label"] for event in events(hopeless.home) if event.get("status") == "said"]
    assert any(
        text.startswith("1: of 384 responses 0 are right, 384 wrong, 384 cut at the limit, 0 empty")
        for text in notices
    )
    assert any(text.startswith("ends: teacher training: ") for text in notices)


def test_registry_prefect_and_mlflow_say_that_it_failed_and_why(hopeless: Campaign):
    registry = Registry(f"sqlite:///{hopeless.home / 'registry.db'}")
    (campaign,) = registry.campaigns()
    registry.close()
    assert campaign.status == "failed" and campaign.finished_at is not None
    prefect = hopeless.home / "prefect" / "prefect.db"
    flows = query_rows(
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
    ((kind, message),) = query_rows(prefect, query)
    assert kind == "FAILED" and "ce learns from right responses" in message
    query = (
        "SELECT r.status, t.value FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid WHERE "
        "t.key = 'fault'"
    )
    ((status, fault),) = query_rows(hopeless.home / "mlflow" / "mlflow.db", query)
    assert status == "FAILED" and "raise sampling.max_new_tokens" in fault


@pytest.mark.long
def test_mended_it_goes_on_from_what_is_done(hopeless: Campaign):
    kept = Store(hopeless.home / "store").artifacts("evaluation")
    assert kept, "the base was evaluated before the batch was checked"
    fixed = run_campaign(hopeless.folder, arguments=campaign_arguments(*SMALL))
    assert fixed.result["status"] == "completed"
    logged = [
        event
        for event in events(hopeless.home, fixed.result["campaign"])
        if event["label"].startswith("0: evaluate base")
    ]
    assert [event["status"] for event in logged if "status" in event] == ["cached"]
