"""Options of a benchmark, and its output: readable lines, then the contract's JSON object."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks._budget import Deadline
from benchmarks._measure import machine
from benchmarks._pairs import Row


def quiet() -> None:
    """Silence the warnings of libraries."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def parser(about: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks, and silence the warnings of libraries.

    Its `--minutes` becomes `deadline`, which begins when the options are parsed.
    """
    quiet()
    arguments = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "--json", action="store_true", help="print one JSON object as the last line"
    )
    arguments.add_argument(
        "--minutes",
        dest="deadline",
        metavar="M",
        type=Deadline.in_minutes,
        default="5",
        help="measure for this long, then give the result so far (default %(default)s)",
    )
    arguments.add_argument(
        "--rounds",
        type=_count,
        default=rounds,
        help="most pairs of measurements after a warm-up (default %(default)s)",
    )
    return arguments


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of pairs; the least is 1")
    return count


def said(row: Row) -> Row:
    """Print a row and return it."""
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


def finish(
    args: argparse.Namespace,
    name: str,
    unit: str,
    measured: Mapping[str, Row],
    wanted: Sequence[str] = (),
    **setup: Any,
) -> None:
    """Print the result; the headline is the first comparison. Exits with 1 if there is none.

    **Arguments:**
        args: From `parser`.
        measured: The row of each comparison, from `compared`.
        wanted: The names of all comparisons; those without a row are `left_out`.
        setup: What was measured; the JSON object has it together with the machine.
    """
    minutes = args.deadline.seconds / 60
    if not measured:
        sys.exit(f"{name}: no pair was measured in {minutes:g} minutes; set a larger --minutes")
    headline, *_ = measured.values()
    spread = {key: headline[key] for key in ("pairs", "ratio_range", "preliminary")}
    ours, peer, ratio = (headline[key] for key in ("ours", "peer", "ratio"))
    low, high = spread["ratio_range"]
    kind = "the warm-up only" if spread["preliminary"] else f"pairs: {spread['pairs']}"
    print(
        f"{name}: ours {ours:g} {unit}, peer {peer:g} {unit}, ratio {ratio:g} ({low:g} to "
        f"{high:g}; {kind})",
        flush=True,
    )
    if args.json:
        about = {
            **machine(),
            "minutes": minutes,
            **spread,
            **setup,
            "results": list(measured.values()),
            "left_out": [case for case in wanted if case not in measured],
        }
        print(
            json.dumps(
                {
                    "name": name,
                    "ours": ours,
                    "peer": peer,
                    "ratio": ratio,
                    "unit": unit,
                    "setup": about,
                }
            ),
            flush=True,
        )
