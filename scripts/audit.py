"""Which packages of constraints.txt have known vulnerabilities: a table in Markdown, from the
advisories that pip-audit gets from PyPI.

    python -m scripts.audit

A report, not a gate: it ends with exit code 0 whatever it finds, and where no advisory service
answers, which it says in one line.
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
"""In the last line of pip-audit's complaint: it is about the service, not about what it was
given.
"""


def main() -> None:
    try:
        done = subprocess.run(
            [sys.executable, *COMMAND], capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        print(no_report(f"it did not end within {SECONDS} s"))
        return
    if done.stdout.startswith("{"):
        print(report(json.loads(done.stdout)))
        return
    why = one_line((done.stderr.strip().splitlines() or ["it said nothing"])[-1], 200)
    if not UNREACHABLE.search(why):
        sys.exit(
            f"audit: pip-audit failed ({why}); `make dev` installs it, and constraints.txt holds "
            f"lines NAME==VERSION alone"
        )
    print(no_report(why))


def no_report(why: str) -> str:
    return (
        f"audit: no report, for the advisory service gives no answer ({why}); run it where "
        f"pypi.org can be reached"
    )


def report(answer: dict[str, Any]) -> str:
    """The table of an answer of pip-audit (its format `json`), a row an advisory, under a line that
    counts.

    Example: of `{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}` it is
    `"advisories: 0; packages audited: 1, unknown to the service: 0"`
    """
    packages = answer["dependencies"]
    audited = [one for one in packages if "skip_reason" not in one]
    if not audited:
        return no_report(f"it knows none of {len(packages)} packages")
    found = [(one, advisory) for one in audited for advisory in one["vulns"]]
    lines = [
        f"advisories: {len(found)}; packages audited: {len(audited)}, unknown to the service: "
        f"{len(packages) - len(audited)}"
    ]
    if found:
        lines += ["", "| package | version | advisory | fixed in |", "|---|---|---|---|"]
        lines += [row(one["name"], one["version"], advisory) for one, advisory in found]
    return "\n".join(lines)


def row(name: str, version: str, advisory: dict[str, Any]) -> str:
    names = ", ".join([advisory["id"], *advisory.get("aliases", ())])
    cells = (name, version, names, ", ".join(advisory["fix_versions"]) or "no version yet")
    return f"| {' | '.join(map(markdown, cells))} |"


if __name__ == "__main__":
    main()
