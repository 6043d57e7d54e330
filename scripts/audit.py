"""Reports packages of constraints.txt with known vulnerabilities, as a Markdown table.

    python -m scripts.audit

pip-audit gets the advisories from PyPI. This is a report, not a gate: the exit code is 0 whatever
it finds. It is also 0 if no advisory service answers; one line then says so.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tasks.untrusted.display_text import markdown, one_line

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
COMMAND = (
    "-m",
    "pip_audit",
    "-r",
    str(CONSTRAINTS),
    "--no-deps",
    "--disable-pip",
    "-f",
    "json",
    "--progress-spinner",
    "off",
)
SECONDS = 600
UNREACHABLE = re.compile(
    r"(Connection|Proxy|SSL|HTTP|Timeout|ServiceError)\w*|\b[Cc]ould not connect|\btimed out"
)
"""Matches the last line of an error of pip-audit that is about the service, not about the input."""


def main() -> None:
    try:
        done = subprocess.run(
            [sys.executable, *COMMAND], capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        print(no_report(f"it took more than {SECONDS} s"))
        return
    if done.stdout.startswith("{"):
        print(report(json.loads(done.stdout)))
        return
    why = one_line((done.stderr.strip().splitlines() or ["no message"])[-1], 200)
    if not UNREACHABLE.search(why):
        sys.exit(
            f"audit: pip-audit failed ({why}); install it with `make dev`, and check that "
            f"constraints.txt has only lines NAME==VERSION"
        )
    print(no_report(why))


def no_report(why: str) -> str:
    """Return the line that is printed when the advisory service does not answer."""
    return (
        f"audit: no report, because the advisory service did not answer ({why}); run it where "
        f"pypi.org can be reached"
    )


def report(answer: dict[str, Any]) -> str:
    """Return pip-audit's JSON output as a line of counts and a table with one row per advisory.

    **Example:** `{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}` becomes
    `"advisories: 0; packages audited: 1, unknown to the service: 0"`
    """
    packages = answer["dependencies"]
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        return no_report(f"it knows none of {len(packages)} packages")
    advisories = [(package, advisory) for package in audited for advisory in package["vulns"]]
    lines = [
        f"advisories: {len(advisories)}; packages audited: {len(audited)}, unknown to the service: "
        f"{len(packages) - len(audited)}"
    ]
    if advisories:
        lines += ["", "| package | version | advisory | fixed in |", "|---|---|---|---|"]
        lines += [
            row(package["name"], package["version"], advisory) for package, advisory in advisories
        ]
    return "\n".join(lines)


def row(name: str, version: str, advisory: dict[str, Any]) -> str:
    """Return the table row of one advisory."""
    names = ", ".join([advisory["id"], *advisory.get("aliases", ())])
    cells = (name, version, names, ", ".join(advisory["fix_versions"]) or "no version yet")
    return f"| {' | '.join(map(markdown, cells))} |"


if __name__ == "__main__":
    main()
