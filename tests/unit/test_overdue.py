"""Decisions that nobody took in time, as the process that stays answers them: what a busy server
costs, and one that is gone.
"""

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
    one = PendingDecision(
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
    one.path.parent.mkdir(exist_ok=True)
    one.path.write_text(one.model_dump_json())
    return one


@pytest.fixture(autouse=True)
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A home of its own, and a client that waits for a second, once."""
    monkeypatch.setenv("ERPD_HOME", str(tmp_path))
    with temporary_settings({PREFECT_API_REQUEST_TIMEOUT: 1.0, PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield


def test_of_a_busy_server_it_is_asked_again_in_the_next_round():
    with socket.create_server(("127.0.0.1", 0)) as busy:  # takes connections and never answers
        one = overdue(busy.getsockname()[1])
        assert answer_overdue() == 1
        assert pending_decisions() == [one]


def test_of_a_server_that_is_gone_nothing_waits_any_more():
    overdue(free_port())
    assert answer_overdue() == 1
    assert pending_decisions() == [] and answer_overdue() == 0
