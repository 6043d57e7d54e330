"""Rules for the source, checked on its syntax tree.

No file may unpickle, evaluate text, run a shell, trust code unasked, or build SQL from text.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

FOLDERS = ("erpd_core", "tasks", "flows", "deployments", "scripts", "docker", "benchmarks")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
RUNS_PROGRAMS = "tasks/grading/code/runner.py"
"""Runs the graded programs, in its own contained process (docs/code_grading.md)."""
UNPICKLERS = {
    "pickle",
    "cPickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "jsonpickle",
}
SQL = {"text", "execute", "exec_driver_sql", "executemany", "executescript", "scalar", "scalars"}


def dotted(node: ast.AST) -> str:
    """The dotted name `a.b.c` of a name or attribute; for anything else, its last part."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def is_constant(node: ast.AST) -> bool:
    """Whether a text is fixed when the module is written: a literal, or a name in capitals."""
    if isinstance(node, ast.JoinedStr):
        return all(is_constant(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return is_constant(node.value)
    if isinstance(node, ast.BinOp):
        return is_constant(node.left) and is_constant(node.right)
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id.isupper())


def is_built(node: ast.AST) -> bool:
    """Whether a text is built from parts that are not constant."""
    if isinstance(node, ast.JoinedStr | ast.BinOp):
        return not is_constant(node)
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("format", "join", "replace", "format_map")
    )


def objections(tree: ast.AST, file: str = "") -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
            yield from (
                f"imports {name}" for name in modules if name.partition(".")[0] in UNPICKLERS
            )
        if not isinstance(node, ast.Call):
            continue
        name, last = dotted(node.func), dotted(node.func).rpartition(".")[2]
        given = {keyword.arg: keyword.value for keyword in node.keywords}

        def says(argument: str, value: object, given: dict[str | None, ast.expr] = given) -> bool:
            node = given.get(argument)
            return isinstance(node, ast.Constant) and node.value is value

        if isinstance(node.func, ast.Name) and name in ("eval", "exec") and file != RUNS_PROGRAMS:
            yield f"calls {name}"
        if name == "torch.load" and not says("weights_only", True):
            yield "torch.load without weights_only=True"
        if name in ("np.load", "numpy.load") and not (
            given.get("allow_pickle") is None or says("allow_pickle", False)
        ):
            yield "np.load with pickles"
        if name in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"):
            yield f"{name}: use yaml.safe_load"
        if name in (
            "os.system",
            "os.popen",
            "subprocess.getoutput",
            "subprocess.getstatusoutput",
        ) or ("shell" in given and not says("shell", False)):
            yield "runs a shell"
        if (
            says("trust_remote_code", True)
            or says("allow_pickle", True)
            or says("use_safetensors", False)
        ):
            yield "trusts code or pickles unasked"
        if (
            last == "from_pretrained"
            and file.startswith("tasks/")
            and not {"trust_remote_code", "local_files_only"} <= given.keys()
        ):
            yield "from_pretrained without trust_remote_code and local_files_only"
        if last in ("extractall", "unpack_archive"):
            yield f"{last}: members of an archive may lead out of the folder"
        if last == "Environment" and not says("autoescape", True):
            yield "a Jinja environment without autoescape"
        if last in SQL and node.args and is_built(node.args[0]):
            yield f"{last} of a built text: bind its parameters"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_source_keeps_the_rules(path: Path):
    name = str(path.relative_to(ROOT))
    assert list(objections(ast.parse(path.read_text(encoding="utf-8")), name)) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "Model.from_pretrained(folder, trust_remote_code=True)",
        "tar.extractall(folder)",
        "jinja2.Environment(loader=one)",
        "connection.execute(f'SELECT {name}')",
        "sa.text('SELECT ' + name)",
        "sa.text('SELECT %s' % name)",
        "session.execute('SELECT {}'.format(name))",
    ],
)
def test_each_rule_finds_what_it_forbids(line: str):
    assert list(objections(ast.parse(line)))


def test_bound_parameters_and_constants_are_fine():
    for line in (
        "connection.execute(sa.text('SELECT :a'), {'a': a})",
        "connection.execute(f'PRAGMA busy_timeout = {BUSY * 1000}')",
    ):
        assert not list(objections(ast.parse(line)))
