"""Measures the store with many trajectories.

They are written shard by shard, verified, read back as a training batch, and counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers import ROOT, environment

LENGTH = 512
"""Tokens per trajectory. For 100,000 trajectories that is three times what is kept in memory
(`tasks.rollouts.columns.IN_MEMORY`).
"""
WORK = """
import json, resource, sys, time
from pathlib import Path
from benchmarks._synthetic import SEQUENCES, rollouts
from tasks.rollouts import load_batch, outcomes, shards
from tasks.store import Store

root, count, length = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
seconds = {}

def timed(name, act):
    began = time.monotonic()
    found = act()
    seconds[name] = round(time.monotonic() - began, 2)
    return found

def resident_peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

imported = resident_peak()
ref = timed("write", lambda: rollouts(Store(root), count // SEQUENCES, length))
written = resident_peak()
assert timed("check", lambda: Store(root).has(ref.id))
batch = timed("read", lambda: load_batch(shards(Store(root), ref)))
found = outcomes(Store(root), ref)
responses = sum(map(len, found.values()))
assert len(batch.reward_S) == ref.sequences == responses, "a trajectory is missing"
assert len(batch.token_N) == ref.tokens, "a token is missing"
size = sum(file.size for file in Store(root).manifest(ref.id).files.values())
print(json.dumps({
    "trajectories": ref.sequences, "tokens": ref.tokens, "bytes": size, "seconds": seconds,
    "memory": {"imported": imported, "written": written, "read": resident_peak()},
}))
"""


def measure(folder: Path, count: int, kind: str = "sqlite", length: int = LENGTH) -> dict[str, Any]:
    """Measure each step's seconds and the peak resident memory, in bytes, after it.

    There is no database; `kind` has no effect.
    """
    command = [sys.executable, "-c", WORK, str(folder / "store"), str(count), str(length)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=environment(folder), cwd=ROOT
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result
