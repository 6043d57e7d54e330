"""What a benchmark prints: lines to read, and as the last one the contract's JSON object."""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from typing import Any

from benchmarks._measure import machine


def quiet() -> None:
    """What libraries warn of is not read."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def parser(about: str | None, rounds: int) -> argparse.ArgumentParser:
    """`--json` and `--rounds`, and quiet libraries."""
    quiet()
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    made.add_argument(
        "--rounds",
        type=int,
        default=rounds,
        help="pairs of measurements after a warm-up (default %(default)s)",
    )
    return made


def said(row: dict[str, Any]) -> dict[str, Any]:
    """The row, printed as it comes."""
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


def finish(
    as_json: bool, name: str, unit: str, results: list[dict[str, Any]], **setup: Any
) -> None:
    """Print the result: the headline is the first of `results`. A ratio above 1 means better
    than the peer; `setup` says on what.
    """
    ours, peer, ratio = (results[0][key] for key in ("ours", "peer", "ratio"))
    print(f"{name}: ours {ours:g} {unit}, peer {peer:g} {unit}, ratio {ratio:g}", flush=True)
    if as_json:
        whole = {**machine(), **setup, "results": results}
        print(
            json.dumps(
                {
                    "name": name,
                    "ours": ours,
                    "peer": peer,
                    "ratio": ratio,
                    "unit": unit,
                    "setup": whole,
                }
            ),
            flush=True,
        )
