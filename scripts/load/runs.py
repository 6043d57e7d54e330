"""Measures the commands that query the registry, when it has many campaigns.

Each command runs in a separate process, as for a user.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from flows.recipes.load import load_recipe
from scripts.load.book import fill
from scripts.load.databases import database
from tests.helpers import erpd


def measure(folder: Path, count: int, kind: str) -> dict[str, Any]:
    """Measure the seconds of each command with `count` campaigns, and check its output."""
    last = f"load-{count - 1:06d}"
    commands = {
        "help": ("--help",),
        "campaigns --last 20": ("campaigns", "--last", 20, "--json"),
        "campaigns": ("campaigns", "--json"),
        "lineage": ("lineage", f"{last}:student", "--json"),
        "lineage --descendants": ("lineage", f"{last}:rollouts", "--descendants", "--json"),
        "compare": ("compare", last, "load-000000", "--json"),
        "gc --dry-run": ("gc", "--dry-run", "--json"),
    }
    with database(kind, folder) as url:
        started = time.monotonic()
        fill(url, count, load_recipe("tiny", []))
        filled = time.monotonic() - started
        seconds, answers = {}, {}
        for name, arguments in commands.items():
            started = time.monotonic()
            done = erpd(*arguments, home=folder, ERPD_REGISTRY_URL=url, timeout=600)
            seconds[name] = round(time.monotonic() - started, 2)
            assert done.returncode == 0, f"erpd {name}: {done.stderr}"
            answers[name] = json.loads(done.stdout) if "--json" in arguments else {}
    assert [len(answers[name]["campaigns"]) for name in ("campaigns --last 20", "campaigns")] == [
        min(20, count),
        count,
    ]
    assert answers["lineage"]["lines"][0]["id"] == f"policy-{count - 1:06d}student"
    assert answers["compare"]["b"] == "load-000000"
    return {
        "campaigns": count,
        "database": kind,
        "filled_seconds": round(filled, 1),
        "seconds": seconds,
    }
