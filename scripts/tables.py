"""Run every table and figure of the paper at a small scale and write what came out as Markdown.

    python -m scripts.tables --scale tiny --out docs/results/tables.md [NAME ...]

Studies share what is the same in ERPD_HOME, and an interrupted run goes on with the same command.
Without names: all of them.
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
base; KL and entropy in nats per token. The paper's numbers are for other models and problems: what can be compared are signs and orders,
and no row here is tuned for it. With one seed each, no claim rests on a row.

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
        asked = f" {' '.join(args.names)}" if args.names else ""
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(HEAD.format(scale=args.scale, names=asked) + "\n".join(parts))
        print(f"{name}: {study}, {time.monotonic() - started:.0f} s", flush=True)


def run(name: str, settings: list[str]) -> str:
    """Run a study in a process of its own; its id."""
    flags = [part for one in settings for part in ("--set", one)]
    command = [sys.executable, "-m", "deployments.cli", "run", name, "--json", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ)
    study: str = json.loads(done.stdout)["campaign"]
    return study


def section(name: str, settings: list[str], study_id: str, seconds: float) -> str:
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
        "\n".join(f"- {one}" for one in load_paper(study.paper).findings) if study.paper else ""
    )
    made = (
        f"`erpd run {name} --set {settings[0]}`; {seconds:.0f} s, without what earlier "
        f"studies had in common"
    )
    table = study_markdown(study_rows(registry, campaigns, study))
    return f"## {study.description}\n\n{made}.\n\n{table}\n\nThe paper's findings:\n\n{findings}\n"


if __name__ == "__main__":
    main()
