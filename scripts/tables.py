"""Runs the paper's tables and figures at a small scale and writes the results as Markdown.

    python -m scripts.tables --scale tiny --out docs/results/tables.md [NAME ...]

Without names it runs all of them. Studies share equal stages in ERPD_HOME. Rerun the same command
to resume.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HEAD = """# The paper's tables and figures at `scale={scale}`

Made by `python -m scripts.tables --scale {scale}{names}`. One seed each. Scores in % with their 95 % interval; gains in points over the
base; KL and entropy in nats per token. The paper's numbers are for other models and problems: only signs and order can be compared.
No row is tuned to match them. With one seed each, no claim rests on a row.

"""  # noqa: E501


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*")
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("docs/results/tables.md"))
    args = parser.parse_args()
    from flows.recipes.load import recipe_names
    from flows.recipes.studies import is_study

    names = args.names or [name for name in recipe_names() if is_study(name)]
    settings = [f"scale={args.scale}", *args.overrides]
    parts = []
    for name in names:
        started = time.monotonic()
        study = run(name, settings)
        parts.append(section(name, settings, study, time.monotonic() - started))
        selection = f" {' '.join(args.names)}" if args.names else ""
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(HEAD.format(scale=args.scale, names=selection) + "\n".join(parts))
        print(f"{name}: {study}, {time.monotonic() - started:.0f} s", flush=True)


def run(name: str, settings: list[str]) -> str:
    """Run a study in a separate process. Returns its id."""
    flags = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "deployments.cli", "run", name, "--json", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
    study: str = json.loads(done.stdout)["campaign"]
    return study


def section(name: str, settings: list[str], study_id: str, seconds: float) -> str:
    """Return the Markdown section of a study that has run."""
    from flows.recipes.paper import load_paper
    from flows.recipes.studies import load_study
    from flows.reports.study_table import study_markdown, study_rows
    from tasks.host.home import prepare
    from tasks.registry import open_registry

    prepare()
    study = load_study(name, settings)
    registry = open_registry()
    campaigns = {arm.name: registry.campaign(arm.config.name).id for arm in study.arms}
    findings = (
        "\n".join(f"- {finding}" for finding in load_paper(study.paper).findings)
        if study.paper
        else ""
    )
    made = (
        f"`erpd run {name} --set {settings[0]}`; {seconds:.0f} s, excluding stages shared with "
        f"earlier studies"
    )
    table = study_markdown(study_rows(registry, campaigns, study))
    return f"## {study.description}\n\n{made}.\n\n{table}\n\nThe paper's findings:\n\n{findings}\n"


if __name__ == "__main__":
    main()
