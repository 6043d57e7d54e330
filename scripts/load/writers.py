"""Measures several processes that write campaigns to one registry at once.

No write may be lost or refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from scripts.load.databases import database
from tasks.registry import Registry
from tests.helpers import ROOT, environment

CAMPAIGNS = 20
"""Campaigns per writer; each campaign has as many artifacts."""
WRITER = """
import json, sys, time
from tasks.registry import Registry

url, writer, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
registry, slowest = Registry(url), 0.0
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    id = f"{writer}-{number}"
    for write in (
        lambda: registry.campaign_started(id, id, "tiny", {"seed": number}),
        *(
            lambda n=n: registry.record_artifact(f"policy-{id}-{n}", "policy", {}, {"init": f"policy-{id}-{n - 1}"} if n else {})
            for n in range(count)
        ),
        *(lambda n=n: registry.attach(id, n + 1, "student", f"policy-{id}-{n}") for n in range(count)),
        lambda: registry.campaign_finished(id),
    ):
        began = time.monotonic()
        write()
        slowest = max(slowest, time.monotonic() - began)
print(json.dumps(slowest))
"""  # noqa: E501


def measure(folder: Path, count: int, kind: str, campaigns: int = CAMPAIGNS) -> dict[str, Any]:
    """Measure the writes per second of `count` writers together, and the slowest single write."""
    with database(kind, folder) as url:
        command = [sys.executable, "-c", WRITER, url]
        writers = [
            subprocess.Popen(
                [*command, f"writer{number}", str(campaigns)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(folder),
                cwd=ROOT,
            )
            for number in range(count)
        ]
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        started = time.monotonic()
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        outputs = [writer.communicate() for writer in writers]
        seconds = time.monotonic() - started
        failed = [
            errors
            for writer, (_, errors) in zip(writers, outputs, strict=True)
            if writer.returncode
        ]
        assert not failed, failed[0]
        with closing(Registry(url)) as registry:
            known = registry.campaigns()
            assert len(known) == count * campaigns
            assert {campaign.status for campaign in known} == {"completed"}
            assert len(registry.held()) == count * campaigns**2, "an artifact is missing"
            assert len(registry.edges()) == count * campaigns * (campaigns - 1), (
                "an edge is missing"
            )
            registry.check()
    writes = count * campaigns * (2 * campaigns + 2)
    slowest = max(float(json.loads(out)) for out, _ in outputs)
    return {
        "writers": count,
        "database": kind,
        "writes": writes,
        "writes_per_second": round(writes / seconds, 1),
        "slowest_write_seconds": round(slowest, 3),
    }
