"""Output of a benchmark: readable lines, then the contract's JSON object as the last line."""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from typing import Any

from benchmarks._measure import machine


def quiet() -> None:
    """Silence the warnings of libraries."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def parser(about: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with `--json` and `--rounds`, and silence the warnings of libraries."""
    quiet()
    arguments = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "--json", action="store_true", help="print one JSON object as the last line"
    )
    arguments.add_argument(
        "--rounds",
        type=int,
        default=rounds,
        help="pairs of measurements after a warm-up (default %(default)s)",
    )
    return arguments


def said(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row and return it."""
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


def finish(
    as_json: bool, name: str, unit: str, results: list[dict[str, Any]], **setup: Any
) -> None:
    """Print the result; the headline is the first of `results`.

    **Arguments:**
        as_json: Also print the JSON object.
        results: Rows with `ours`, `peer` and `ratio`; a ratio above 1 is better than the peer.
        setup: What was measured; the JSON object has it together with the machine.
    """
    ours, peer, ratio = (results[0][key] for key in ("ours", "peer", "ratio"))
    print(f"{name}: ours {ours:g} {unit}, peer {peer:g} {unit}, ratio {ratio:g}", flush=True)
    if as_json:
        full_setup = {**machine(), **setup, "results": results}
        print(
            json.dumps(
                {
                    "name": name,
                    "ours": ours,
                    "peer": peer,
                    "ratio": ratio,
                    "unit": unit,
                    "setup": full_setup,
                }
            ),
            flush=True,
        )
