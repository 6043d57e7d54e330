"""Every command in the documentation parses, and one that no test runs has a stated reason."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import typer
from doc_commands import (
    PAGES,
    PARSED_ONLY,
    PROGRAMS,
    ROOT,
    WALKTHROUGHS,
    Command,
    commands,
    is_command,
    shell_lines,
)

from deployments.cli import app
from flows.recipes.load import load_recipe, read_tree, recipe_names, recipe_path
from flows.recipes.studies import is_study, load_study

COMMANDS = [command for page in PAGES for command in commands(page)]
OF = {
    program: [command for command in COMMANDS if f"{' '.join(command.words)} ".startswith(program)]
    for program in PROGRAMS
}


def case_name(command: Command) -> str:
    return f"{Path(command.page).name}: {command.line[:70]}"


def test_commands_are_found():
    assert min(len(listed) for listed in OF.values()) > 0 and len(COMMANDS) > 60
    assert {f"docs/{name}.md" for name in WALKTHROUGHS} <= {command.page for command in COMMANDS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_stands_at_the_beginning_of_its_line(page: Path):
    """A command elsewhere in a line would be overlooked."""
    others = [
        line for line in shell_lines(page) if not is_command(line) and not line.startswith("#")
    ]
    hidden = [line for line in others if re.search(r"(^|[\s(;&|])(erpd|make) [a-z-]", line)]
    assert hidden == [], "put each of them on a line of its own"


@pytest.mark.parametrize("pattern", PARSED_ONLY)
def test_what_is_not_run_is_there(pattern: str):
    assert any(re.match(pattern, command.line) for command in COMMANDS), (
        "no command matches this any more; remove the line from PARSED_ONLY"
    )


@pytest.mark.parametrize("command", OF["erpd "], ids=case_name)
def test_erpd_understands_it(command: Command):
    """The command, its arguments and its options parse, and a recipe by name has the keys it sets.

    Keys are not checked if a test runs the page, which may add such keys itself.
    """
    name, *arguments = command.words[1:]
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert name in known, f"{command.page}: the command line has only {sorted(known)}"
    given = known[name].make_context(name, list(arguments)).params
    run = Path(command.page).stem in WALKTHROUGHS and command.not_run is None
    if name in ("run", "show") and given["recipe"] in recipe_names() and not run:
        (load_study if is_study(given["recipe"]) else load_recipe)(
            given["recipe"], given["set_"] or ()
        )


@pytest.mark.parametrize(
    "line",
    [
        "erpd run",
        "erpd run tiny --sett seed=1",
        "erpd eval --model tiny",
        "erpd nosuch",
        "erpd run tiny --set colour=1",
    ],
)
def test_what_erpd_does_not_understand_is_noticed(line: str):
    with pytest.raises(Exception):  # noqa: B017 (typer's own usage error, an assertion, or a recipe's ValueError)
        test_erpd_understands_it(Command("here", line))


@pytest.mark.parametrize("command", OF["make "], ids=case_name)
def test_the_makefile_has_it(command: Command):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in command.words[1:] if "=" not in word} <= targets


@pytest.mark.parametrize("command", OF["python -m "], ids=case_name)
def test_the_module_is_there_and_knows_its_options(command: Command):
    module, *arguments = command.words[2:]
    assert importlib.util.find_spec(module), f"{command.page}: there is no module {module}"
    if module == "pytest":
        assert all((ROOT / path).exists() for path in arguments if path.startswith("tests/"))
    options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    assert not options or options <= set(re.findall(r"--[\w-]+", help_of(module))), (
        f"{command.page}: {module} has no such option"
    )


@cache
def help_of(module: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_the_page_of_recipes_has_each_with_its_description():
    listed = dict(
        re.findall(
            r"^\| `([\w-]+)` \| (.+) \|$",
            (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    )
    shipped = {name: read_tree(recipe_path(name))["description"] for name in recipe_names()}
    assert {name: listed.get(name) for name in shipped} == shipped
