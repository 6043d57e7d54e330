"""Parsers for documents, and checks that the paths and Python names in them exist.

They extract prose, code spans, commands and tables.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("erpd_core", "tasks", "flows", "deployments")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(`+)(.+?)\1")


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def fences(path: Path) -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return FENCE.findall(path.read_text(encoding="utf-8"))


def spans(path: Path) -> list[str]:
    """The code spans of a document outside its fenced blocks, each once."""
    return list(dict.fromkeys(content.strip() for _, content in SPAN.findall(prose(path))))


def commands(path: Path, program: str) -> list[list[str]]:
    """Every command of `program` in code spans and shell blocks, as words without comments."""
    shell = [
        line
        for language, block in fences(path)
        if language in ("bash", "sh")
        for line in block.splitlines()
    ]
    return [
        shlex.split(line, comments=True)
        for line in (*spans(path), *shell)
        if line.startswith(f"{program} ")
    ]


def rows(path: Path, *columns: str) -> Iterator[list[str]]:
    """The rows of every table of a document whose header has exactly these columns."""
    header: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not header:
            header = cells
        elif header == list(columns) and not set("".join(cells)) <= set("-: "):
            assert len(cells) == len(columns), (
                f"{path.name}: a row of {len(cells)} cells under {len(columns)} columns: {line}"
            )
            yield cells


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def names_in(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """Everything that a module's or class's body defines or imports, by name."""
    names: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
        elif isinstance(node, ast.Assign):
            names |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: node for alias in node.names}
    return names


def python_name_exists(name: str) -> bool:
    """Whether `package.module.symbol.attribute` exists.

    Reads the source and imports nothing, so heavy modules cost nothing.
    """
    folder, parts = ROOT, name.split(".")
    while parts and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    path = (
        folder / f"{parts[0]}.py"
        if parts and (folder / f"{parts[0]}.py").is_file()
        else folder / "__init__.py"
    )
    symbols = parts[1:] if path.name != "__init__.py" else parts
    if not path.is_file():
        return False
    body = tree(path).body
    for index, symbol in enumerate(symbols):
        node = names_in(body).get(symbol)
        if isinstance(node, ast.ImportFrom) and node.module:
            return python_name_exists(".".join([node.module, *symbols[index:]]))
        if node is None:
            return False
        body = getattr(node, "body", [])
    return True


def path_exists(span: str) -> bool:
    """Whether a path is in the tree, or ignored by git as a file of the user (`docker/.env`)."""
    if "*" in span:
        return any(ROOT.glob(span))
    return (ROOT / span).exists() or subprocess.run(
        ["git", "check-ignore", "-q", span], cwd=ROOT
    ).returncode == 0
