"""What a benchmark prints: lines to read, and as the last one the contract's JSON object."""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from typing import Any


def parser(about: str | None, rounds: int) -> argparse.ArgumentParser:
    """`--json` and `--rounds`, and quiet libraries."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    made.add_argument("--rounds", type=int, default=rounds, help="pairs of measurements after a warm-up (default %(default)s)")
    return made


def finish(as_json: bool, name: str, ours: float, peer: float, ratio: float, unit: str, setup: dict[str, Any]) -> None:
    """Print the result. `ratio` above 1 means better than the peer; `setup` says on what, and holds every single figure."""
    print(f"{name}: ours {ours:g} {unit}, peer {peer:g} {unit}, ratio {ratio:g}", flush=True)
    if as_json:
        print(json.dumps({"name": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": unit, "setup": setup}), flush=True)
