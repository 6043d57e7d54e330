"""The report on known vulnerabilities: a table of advisories, or one line without the service."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from scripts.audit import report

ADVISORY = {
    "id": "PYSEC-2026-1",
    "aliases": ["CVE-2026-11"],
    "fix_versions": ["1.2", "2.0"],
    "description": "long\ntext",
}


def package(name: str, *advisories: object) -> dict[str, object]:
    return {"name": name, "version": "1.0", "vulns": list(advisories)}


def test_an_advisory_is_a_row_with_its_package_and_where_it_is_fixed():
    open_one = {"id": "GHSA-a|b\n<i>", "fix_versions": []}
    text = report(
        {
            "dependencies": [
                package("good"),
                package("bad", ADVISORY, open_one),
                {"name": "own", "skip_reason": "not on PyPI"},
            ]
        }
    )
    assert text.splitlines() == [
        "advisories: 2; packages audited: 2, unknown to the service: 1",
        "",
        "| package | version | advisory | fixed in |",
        "|---|---|---|---|",
        "| bad | 1.0 | PYSEC-2026-1, CVE-2026-11 | 1.2, 2.0 |",
        "| bad | 1.0 | GHSA-a\\|b &lt;i> | no version yet |",
    ]


def test_nothing_found_is_not_nothing_known():
    assert (
        report({"dependencies": [package("good")]})
        == "advisories: 0; packages audited: 1, unknown to the service: 0"
    )
    unknown = report(
        {
            "dependencies": [
                {"name": name, "skip_reason": "Dependency not found on PyPI"} for name in "ab"
            ]
        }
    )
    assert (
        unknown.startswith("audit: no report")
        and "none of 2 packages" in unknown
        and "\n" not in unknown
    )


@pytest.mark.slow
def test_where_no_service_answers_it_says_so_in_one_line_and_is_no_failure(tmp_path: Path):
    if importlib.util.find_spec("pip_audit") is None:
        pytest.skip("pip-audit is not installed: make dev")
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"http://127.0.0.1:{server.getsockname()[1]}"
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in ("no_proxy", "https_proxy", "all_proxy")
    }
    # pip's own cache must not answer either
    environment |= {"HTTPS_PROXY": closed, "PIP_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "scripts.audit"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout.startswith("audit: no report")
        and done.stdout.count("\n") == 1
        and "Proxy" in done.stdout
    )
