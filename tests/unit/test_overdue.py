"""Overdue decisions, answered by the process that stays: a busy server, and one that is gone."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from deployments.servers.local_platform import free_port
from flows.steps.human_decision import PendingDecision, answer_overdue, pending_decisions


def overdue(port: int) -> PendingDecision:
    pending = PendingDecision(
        campaign="tiny-0123456789",
        iteration=1,
        flow_run=str(uuid4()),
        api=f"http://127.0.0.1:{port}/api",
        until=0.0,
        strategies=("S1", "stop"),
        students=(),
        automatic="S1",
        evidence="",
    )
    pending.path.parent.mkdir(exist_ok=True)
    pending.path.write_text(pending.model_dump_json())
    return pending


@pytest.fixture(autouse=True)
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test's own home, and a client that waits one second and does not retry."""
    monkeypatch.setenv("ERPD_HOME", str(tmp_path))
    with temporary_settings({PREFECT_API_REQUEST_TIMEOUT: 1.0, PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield


def test_of_a_busy_server_it_is_asked_again_in_the_next_round():
    with socket.create_server(("127.0.0.1", 0)) as busy:  # accepts connections and never answers
        pending = overdue(busy.getsockname()[1])
        assert answer_overdue() == 1
        assert pending_decisions() == [pending]


def test_of_a_server_that_is_gone_nothing_waits_any_more():
    overdue(free_port())
    assert answer_overdue() == 1
    assert pending_decisions() == [] and answer_overdue() == 0
