"""See `scripts.evidence`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from scripts.evidence.page import SEEDS, write_page
from scripts.evidence.running import run_missing, study_names

RECORDS = Path("docs/results/evidence")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.evidence", description="Run what is missing of the evidence, then write its page."
    )
    parser.add_argument("studies", nargs="*", help=f"of {', '.join(study_names())}; without names all of them")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many, from 0 on (default {SEEDS})")
    parser.add_argument("--first", type=int, default=0, help="the first seed: selection was done on 100 and above")
    parser.add_argument("--records", type=Path, default=RECORDS, help=f"folder of the records (default {RECORDS})")
    parser.add_argument("--page", action="store_true", help="run nothing: only the page and its figures")
    args = parser.parse_args()
    if unknown := set(args.studies) - set(study_names()):
        parser.error(f"no study {', '.join(sorted(unknown))}; there are {', '.join(study_names())}")
    try:
        if not args.page:
            run_missing(args.studies or study_names(), range(args.first, args.first + args.seeds), args.records, Console(stderr=True))
    finally:  # stopped or failed, the page is that of the records there are
        print(write_page(args.records, Path("docs/results/claims.md"), Path("README.md")))


if __name__ == "__main__":
    main()
