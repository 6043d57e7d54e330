"""MLflow beside the work: whoever opens a campaign's run, there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.aside import Aside


@pytest.mark.slow
def test_a_flow_and_its_iterations_that_open_at_once_share_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ERPD_HOME", str(tmp_path))
    (tmp_path / "mlflow").mkdir()
    asides = [Aside("tiny-1", {"seed": 1}), *(Aside("tiny-1") for _ in range(3))]
    for aside in asides:
        aside.say(lambda tracker, run: tracker.log_text(run, "said", "note.txt"))
    for aside in asides:
        aside.settle()
    assert len({aside.page() for aside in asides}) == 1
