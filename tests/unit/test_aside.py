"""MLflow beside the work: whoever opens a campaign's run, there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.aside import Aside, open_tracker


@pytest.mark.slow
def test_a_flow_and_its_iterations_that_open_at_once_share_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ERPD_HOME", str(tmp_path))
    (tmp_path / "mlflow").mkdir()
    open_tracker()  # makes the database: what is left to meet at is the run
    for campaign in ("tiny-1", "tiny-2", "tiny-3"):
        asides = [Aside(campaign) for _ in range(8)]
        assert len({aside.pages() for aside in asides}) == 1
