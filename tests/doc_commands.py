"""The commands of the documentation: where they stand, which of them tests run, and how campaigns
are made small for that.

As a program, `python doc_commands.py ARGUMENTS` is `erpd ARGUMENTS`, made small: what `erpd` means
in a page that a test runs.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
PROGRAMS = ("erpd ", "make ", "python -m ")
BEFORE = re.compile(r'(?:[A-Z_]+=(?:"[^"]*"|\S*) |erpd-there )*')
"""What may stand before a program: variables for it alone, or docs/cluster.md's short name for a
container.
"""
BLOCK = re.compile(r"^ *```(?:bash|sh)\b[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
HEREDOC = re.compile(r"<<-?\s*'?(\w+)'?")
SHELL = (">", ">>", "|", "&&", "||", ";", "&")

WALKTHROUGHS = ("recipes", "own_data", "own_benchmark", "own_loss", "operations")
"""Pages of docs/ that are run as they stand: their blocks, one after the other, are one script."""

PARSED_ONLY = {
    r"make ": "targets install packages or take long; that they exist is checked",
    r"erpd-there ": "runs in a container",
    r"erpd up --host ADDRESS": "listens at another address; tests/unit/test_doors.py and "
    "tests/integration/test_secrets.py do that",
    r"python -m benchmarks\.": "takes minutes, and a measurement wants an idle machine",
    r"python -m pytest tests/unit/test_forward": "the suite runs these tests by itself",
    r"erpd eval .*(Qwen/|AIME25)": "needs the hub",
    r"erpd run smollm2": "needs weights that `make smollm2` installs, and half an hour",
    r"erpd run table\d+": "a study of many arms; `docs/recipes.md` runs one of two arms",
    r"erpd run .*decision\.mode=ask": "waits for a person; tests/integration/test_asking.py "
    "answers one",
    r"erpd run .*runtime\.trainers": "needs Ray and two workers; "
    "tests/integration/test_trainers.py "
    "has them",
}
"""Commands that tests do not run (a regular expression at their beginning), and why. All others
are run.
"""

ON_TINY = (
    "iterations=1",
    "prompts.count=16",
    "sampling.samples=8",
    "teacher.minibatch=32",
    "teacher.steps=30",
    "teacher.keep=[]",
    "weak_teacher.minibatch=32",
    "weak_teacher.steps=12",
    "weak_teacher.keep=[]",
    "distill.minibatch=32",
    "distill.steps=4",
    "distill.keep=[]",
    "distill.select=last",
    "distill.kl_budget_of_teacher=null",
    "evaluation.validation.count=16",
    "evaluation.validation_sampling.samples=2",
    "evaluation.benchmarks.test.count=16",
    "evaluation.sampling.samples=2",
    "runtime.ray=off",
)
"""Makes a campaign that extends `tiny` a matter of seconds. What a page itself sets comes after
it and wins.
"""
ALWAYS_DISTILS = ("decision.mode=fixed", "decision.fixed=[S1]")
"""A teacher this small may be no better than its start, and the campaign would stop: what a page
does with its student needs one.
"""


@dataclass(frozen=True)
class Command:
    """A command of a page: one line of a shell block, continued lines joined, without its comment.

    Example: `Command("docs/quickstart.md", "erpd run tiny --json > result.json")`
    """

    page: str
    line: str

    @property
    def words(self) -> list[str]:
        """Program and arguments, without what only the shell sees."""
        words = shlex.split(BEFORE.sub("", self.line, count=1))
        return words[
            : next((place for place, word in enumerate(words) if word in SHELL), len(words))
        ]

    @property
    def not_run(self) -> str | None:
        """Why no test runs it; None for one that is run."""
        return next(
            (why for pattern, why in PARSED_ONLY.items() if re.match(pattern, self.line)), None
        )


def shell_lines(page: Path) -> Iterator[str]:
    """Lines of a page's shell blocks, continued ones joined, without the contents of
    here-documents.
    """
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        end = None
        for line in block.replace("\\\n", " ").splitlines():
            if end is None:
                yield line.strip()
                end = found[1] if (found := HEREDOC.search(line)) else None
            elif line.strip() == end:
                end = None


def is_command(line: str) -> bool:
    return BEFORE.sub("", line, count=1).startswith(PROGRAMS)


def commands(page: Path) -> list[Command]:
    """Every command of a page, each line once."""
    lines = (re.sub(r"\s+# .*$", "", line) for line in shell_lines(page) if is_command(line))
    return [Command(str(page.relative_to(ROOT)), line) for line in dict.fromkeys(lines)]


def made_small(arguments: Sequence[str]) -> list[str]:
    """Arguments of `erpd`, made small where they run a campaign or a study, or evaluate on the
    400 problems of `tiny`.
    """
    if arguments[:1] == ["eval"] and "--benchmark tiny" in " ".join(arguments):
        return [*arguments, "--count", "16"]
    if arguments[:1] != ["run"]:
        return list(arguments)
    _, recipe, *rest = arguments
    small = ON_TINY if recipe in ("tiny-unlearned", "tiny-online") else (*ON_TINY, *ALWAYS_DISTILS)
    if recipe == "tiny" and any(
        "=" in word and not word.startswith("iterations=") for word in rest
    ):
        small = (*small, "name=other")  # what reads `tiny` beside it reads the latest of that name
    return ["run", recipe, *(part for one in small for part in ("--set", one)), *rest]


if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, "-m", "deployments.cli", *made_small(sys.argv[1:])])
