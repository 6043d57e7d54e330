"""Command line of `python -m scripts.load`; see the package."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts import load
from scripts.load import campaigns, runs, trajectories, writers

LOADS: dict[str, tuple[Callable[[Path, int, str], dict[str, Any]], int]] = {
    "runs": (runs.measure, 10_000),
    "writers": (writers.measure, 8),
    "trajectories": (trajectories.measure, 100_000),
    "campaigns": (campaigns.measure, 8),
}
"""Name -> the function that measures it in a folder, and the default count."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=load.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("load", choices=LOADS)
    parser.add_argument("--count", type=int)
    parser.add_argument(
        "--database",
        choices=("sqlite", "postgresql"),
        help="registry of runs and writers (default: sqlite)",
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results/load.jsonl"))
    args = parser.parse_args()
    measure, default_count = LOADS[args.load]
    with tempfile.TemporaryDirectory(prefix="e-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        result = measure(Path(folder), args.count or default_count, args.database or "sqlite")
    line = json.dumps({"load": args.load, **result, "on": datetime.now(UTC).date().isoformat()})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("a") as out:
        out.write(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
