"""Command line of `python -m scripts.evidence`; see the package."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from scripts.evidence.page import SEEDS, write_page
from scripts.evidence.record import RECORDS
from scripts.evidence.running import run_missing, study_names
from tasks.host.home import prepare


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.evidence",
        description="Run the studies that have no record, then write the page.",
    )
    parser.add_argument(
        "studies", nargs="*", help=f"from {', '.join(study_names())} (default: all)"
    )
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, help=f"number of seeds (default {SEEDS})"
    )
    parser.add_argument(
        "--first", type=int, default=0, help="first seed; seeds from 100 on were used for selection"
    )
    parser.add_argument(
        "--records", type=Path, default=RECORDS, help=f"folder of the records (default {RECORDS})"
    )
    parser.add_argument(
        "--page", action="store_true", help="run nothing; write only the page and its figures"
    )
    args = parser.parse_args()
    if unknown := set(args.studies) - set(study_names()):
        parser.error(f"no study {', '.join(sorted(unknown))}; there are {', '.join(study_names())}")
    seeds = range(args.first, args.first + args.seeds)
    failed = []
    try:
        if not args.page:
            prepare()
            failed = run_missing(
                args.studies or study_names(), seeds, args.records, Console(stderr=True)
            )
    finally:  # if interrupted, too: the page then shows the records that exist
        print(write_page(args.records, Path("docs/results/claims.md"), Path("README.md")))
    if failed:
        raise SystemExit(
            f"failed, for the reasons above: {'; '.join(failed)}. Rerun the same command to resume"
        )


if __name__ == "__main__":
    main()
