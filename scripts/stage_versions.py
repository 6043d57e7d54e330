"""Finds stages whose code changed although their VERSION did not.

A stage's VERSION is part of its identity, so a forgotten bump hands out stale results. The golden
file keeps, for each stage, its VERSION and the hashes of the modules that its values depend on:

    python -m scripts.stage_versions                # what changed since the golden file was written
    python -m scripts.stage_versions --acknowledge  # write it again, after reading the list

Bump VERSION if the change makes a stage compute other values; then, or if it does not, acknowledge.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import grimp

import tasks
from tasks.execution.stage import Stage

GOLDEN = Path("tests/golden/stage_versions.json")
PACKAGES = ("erpd_core", "tasks")
WITHOUT_VALUES = (
    "tasks.execution",
    "tasks.store",
    "tasks.host",
    "tasks.registry",
    "tasks.tracking",
    "tasks.estimate",
    "erpd_core.estimates",
    "erpd_core.strategy",
    "erpd_core.schedule",
)
"""Packages that decide where and whether a stage runs, not what it computes."""


LOADED_BY_NAME = {
    "erpd_core.losses": "erpd_core.losses.*",
    "tasks.grading.workers": "tasks.grading.worker_main",
    "tasks.grading.code.levels": "tasks.grading.code.*",
}
"""Module -> the modules that it loads or starts by name, which no import statement shows."""


class StageCode(TypedDict):
    """What the golden file keeps of a stage."""

    version: int
    modules: dict[str, str]
    """Module -> hash of its syntax tree."""


def stages() -> dict[str, type[Stage[Any]]]:
    """Every stage class of the project, by name."""
    for module in pkgutil.walk_packages(tasks.__path__, "tasks."):
        if not module.name.startswith(("tasks.registry.migrations", "tasks.engines.vllm")):
            importlib.import_module(module.name)
    return {cls.__name__: cls for cls in sorted(_subclasses(Stage), key=lambda cls: cls.__name__)}


def _subclasses(cls: type[Stage[Any]]) -> Iterator[type[Stage[Any]]]:
    for child in cls.__subclasses__():
        if child.__module__.startswith("tasks.") and "VERB" in child.__dict__:
            yield child
        yield from _subclasses(child)


def stage_code() -> dict[str, StageCode]:
    """Stage -> its VERSION and the hashes of the modules that its values depend on."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    hashes: dict[str, str] = {}
    found: dict[str, StageCode] = {}
    for name, cls in stages().items():
        modules = {cls.__module__, *graph.find_upstream_modules(cls.__module__)}
        for loader in LOADED_BY_NAME.keys() & modules:
            for module in graph.find_matching_modules(LOADED_BY_NAME[loader]):
                modules |= {module, *graph.find_upstream_modules(module)}
        kept = sorted(module for module in modules if not module.startswith(WITHOUT_VALUES))
        for module in kept:
            if module not in hashes:
                hashes[module] = tree_hash(_path(module).read_text(encoding="utf-8"))
        found[name] = {
            "version": cls.VERSION,
            "modules": {module: hashes[module] for module in kept},
        }
    return found


def _path(module: str) -> Path:
    path = Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def complaints(golden: Mapping[str, StageCode], now: Mapping[str, StageCode]) -> list[str]:
    """A line for each stage whose code or VERSION is not the one of the golden file."""
    lines = []
    for name in sorted(golden.keys() | now.keys()):
        if name not in now or name not in golden:
            lines.append(f"{name}: {'a new stage' if name in now else 'is gone'}; acknowledge")
            continue
        before, after = golden[name], now[name]
        changed = sorted(
            module
            for module in before["modules"].keys() | after["modules"].keys()
            if before["modules"].get(module) != after["modules"].get(module)
        )
        if before["version"] != after["version"]:
            lines.append(f"{name}: VERSION {before['version']} -> {after['version']}; acknowledge")
        elif changed:
            lines.append(
                f"{name}: changed are {', '.join(changed)}, and VERSION is still "
                f"{after['version']}; bump it if values change, then acknowledge"
            )
    return lines


# --------------------------------------------------------------------------------- normalized trees


def tree_hash(source: str) -> str:
    """A hash of what a module computes: 16 hex digits.

    Comments, docstrings, imports, annotations of functions, names of local variables, and the text
    of errors do not enter it.
    """
    tree = _Normalizer().visit(ast.parse(source))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


class _Normalizer(ast.NodeTransformer):
    """Removes from a syntax tree what does not affect values."""

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(exc=error, cause=None)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for argument in [*every, arguments.vararg, arguments.kwarg]:
            if argument is not None:
                argument.annotation = None
        self.generic_visit(node)
        names = {argument.arg for argument in every}
        _rename_locals(node, names)
        return node


def _rename_locals(function: ast.FunctionDef, parameters: set[str]) -> None:
    """Give local variables numbers in the order in which they are first stored."""
    numbers: dict[str, str] = {}
    for node in ast.walk(function):
        if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Store):
            continue
        if node.id not in parameters:
            numbers.setdefault(node.id, f"local{len(numbers)}")
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id in numbers:
            node.id = numbers[node.id]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--acknowledge", action="store_true", help="write the golden file again")
    arguments = parser.parse_args()
    now = stage_code()
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    print("\n".join(complaints(golden, now)) or "nothing changed")
    if arguments.acknowledge:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(now, indent=1) + "\n")


if __name__ == "__main__":
    main()
