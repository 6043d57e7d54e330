"""See `scripts.evidence`."""

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
        description="Run what is missing of the evidence, then write its page.",
    )
    parser.add_argument(
        "studies", nargs="*", help=f"of {', '.join(study_names())}; without names all of them"
    )
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, help=f"how many, from 0 on (default {SEEDS})"
    )
    parser.add_argument(
        "--first", type=int, default=0, help="the first seed: selection was done on 100 and above"
    )
    parser.add_argument(
        "--records", type=Path, default=RECORDS, help=f"folder of the records (default {RECORDS})"
    )
    parser.add_argument(
        "--page", action="store_true", help="run nothing: only the page and its figures"
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
    finally:  # stopped, too, the page is that of the records there are
        print(write_page(args.records, Path("docs/results/claims.md"), Path("README.md")))
    if failed:
        raise SystemExit(
            f"failed, for the reasons above: {'; '.join(failed)}. The same command goes on with "
            f"what is missing"
        )


if __name__ == "__main__":
    main()
