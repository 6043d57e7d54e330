"""The commands of the documentation, and shrunk campaigns for those that tests run.

`python doc_commands.py ARGUMENTS` runs `erpd ARGUMENTS` with a shrunk campaign. It replaces `erpd`
in the pages that tests run.
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
"""Prefix of a command: its own environment variables, or docs/cluster.md's alias for a container.
"""
BLOCK = re.compile(r"^ *```(?:bash|sh)\b[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
HEREDOC = re.compile(r"<<-?\s*'?(\w+)'?")
SHELL = (">", ">>", "|", "&&", "||", ";", "&")

WALKTHROUGHS = ("recipes", "own_data", "own_benchmark", "own_loss", "operations")
"""Pages of docs/ whose shell blocks together run as one script, unchanged."""

PARSED_ONLY = {
    r"make ": "targets install packages or take long; tests check that they exist",
    r"erpd-there ": "runs in a container",
    r"erpd up --host ADDRESS": "listens at another address; tests/unit/test_access.py and "
    "tests/integration/test_secrets.py do that",
    r"python -m benchmarks\.": "takes minutes and needs an idle machine",
    r"python -m pytest tests/unit/test_layouts": "the suite runs these tests anyway",
    r"erpd eval .*(Qwen/|AIME25)": "needs the hub",
    r"erpd run smollm2": "needs weights that `make smollm2` installs, and takes half an hour",
    r"erpd run table\d+": "a study of many arms; `docs/recipes.md` runs one of two arms",
    r"erpd run .*decision\.mode=ask": "waits for a user's decision; "
    "tests/integration/test_human_decision.py gives one",
    r"erpd run .*runtime\.trainers": "needs Ray and two workers; "
    "tests/integration/test_trainers.py has them",
}
"""Commands that tests do not run: regular expression for their beginning -> reason.

Tests run all others.
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
"""Overrides with which a campaign that extends `tiny` takes seconds.

A page's own overrides follow and win.
"""
ALWAYS_DISTILS = ("decision.mode=fixed", "decision.fixed=[S1]")
"""Overrides that force a student, for pages that use one.

Without them a campaign may stop, because a teacher this small may be no better than its start.
"""


@dataclass(frozen=True)
class Command:
    """A command of a page: one line of a shell block, continued lines joined, without its comment.

    **Example:** `Command("docs/quickstart.md", "erpd run tiny --json > result.json")`
    """

    page: str
    line: str

    @property
    def words(self) -> list[str]:
        """Program and arguments, without redirections, pipes and later commands."""
        words = shlex.split(BEFORE.sub("", self.line, count=1))
        return words[
            : next((index for index, word in enumerate(words) if word in SHELL), len(words))
        ]

    @property
    def not_run(self) -> str | None:
        """Why no test runs the command; None if a test runs it."""
        return next(
            (reason for pattern, reason in PARSED_ONLY.items() if re.match(pattern, self.line)),
            None,
        )


def shell_lines(page: Path) -> Iterator[str]:
    """Lines of a page's shell blocks, continued lines joined, without contents of heredocs."""
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        end = None
        for line in block.replace("\\\n", " ").splitlines():
            if end is None:
                yield line.strip()
                end = heredoc[1] if (heredoc := HEREDOC.search(line)) else None
            elif line.strip() == end:
                end = None


def is_command(line: str) -> bool:
    return BEFORE.sub("", line, count=1).startswith(PROGRAMS)


def commands(page: Path) -> list[Command]:
    """Every command of a page, each line once."""
    lines = (re.sub(r"\s+# .*$", "", line) for line in shell_lines(page) if is_command(line))
    return [Command(str(page.relative_to(ROOT)), line) for line in dict.fromkeys(lines)]


def made_small(arguments: Sequence[str]) -> list[str]:
    """Shrink arguments of `erpd` that run a campaign or study, or evaluate `tiny`'s 400
    problems.
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
        small = (*small, "name=other")  # other commands of a page read the latest named `tiny`
    return ["run", recipe, *(part for override in small for part in ("--set", override)), *rest]


if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, "-m", "deployments.cli", *made_small(sys.argv[1:])])
