"""The import contracts hold, among them `deployments -> flows -> tasks -> erpd_core`."""

import json
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"prefect", "prefect_ray", "ray", "mlflow", "sqlalchemy", "alembic", "vllm", "transformers"}


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(no_cache=True))"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)


def layer_packages() -> list[str]:
    """The folder of every package or module that a layers contract names."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return [
        f"{container}/{name.strip()}"
        for contract in contracts["contracts"]
        for container in contract.get("containers", ())
        for layer in contract["layers"]
        for name in layer.split("|")
    ]


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `statement`."""
    code = (
        f"{statement}\nimport json, sys; print(json.dumps(sorted({{name.partition('.')[0] for "
        f"name in sys.modules}})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


def test_the_import_rules_hold():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "statement", "broken"),
    [
        ("erpd_core/method.py", "import tasks", "never backwards"),
        ("tasks/host/verb.py", "import flows", "never backwards"),
        ("flows/steps/composition.py", "import deployments", "never backwards"),
        (
            "erpd_core/method.py",
            "def late():\n    import transformers",
            "erpd_core is the method alone",
        ),
        ("tasks/host/verb.py", "import mlflow", "mlflow only in tasks.tracking"),
        ("flows/steps/composition.py", "import ray", "Ray only in tasks.execution"),
        ("tasks/host/verb.py", "import vllm", "vLLM only in tasks.engines"),
        ("tasks/store/store.py", "import tasks.engines", "layers of tasks"),
        (
            "tasks/training/late.py",
            "def late():\n    import tasks.evaluation",
            "layers of tasks",
        ),
        ("flows/steps/early.py", "import flows.campaign", "layers of flows"),
        ("tasks/store/one.py", "import tasks.store.other", "no import cycles, at any depth"),
    ],
)
def test_a_broken_rule_is_noticed(tmp_path: Path, module: str, statement: str, broken: str):
    """Empty packages pass; one wrong import breaks exactly the contract meant for it."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("erpd_core", "tasks", "flows", "deployments", *layer_packages()):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "tasks" / "store" / "other.py").write_text("import tasks.store.one\n")
    (tmp_path / "tasks" / "store" / "one.py").touch()
    assert lint_imports(tmp_path).returncode == 0

    (tmp_path / module).write_text(statement + "\n")
    done = lint_imports(tmp_path)
    assert done.returncode != 0
    verdicts = [line for line in done.stdout.splitlines() if line.endswith(("KEPT", "BROKEN"))]
    assert [broken in line for line in verdicts if line.endswith("BROKEN")] == [True], done.stdout


def test_config_does_not_import_torch():
    loaded = modules_after("import erpd_core.config")
    assert not loaded & (HEAVY | {"torch", "numpy"})


@pytest.mark.slow
def test_no_module_of_the_method_loads_anything_heavy():
    every = (
        "import importlib, pkgutil, erpd_core\n"
        "for module in pkgutil.walk_packages(erpd_core.__path__, 'erpd_core.'): "
        "importlib.import_module(module.name)"
    )
    assert not modules_after(every) & HEAVY


def test_every_test_file_has_its_own_name():
    """pytest cannot collect two files of one name from folders that are not packages in one run.

    The quick run would miss this, because it collects only one of the folders.
    """
    loose = [
        path
        for path in ROOT.glob("tests/**/test_*.py")
        if not (path.parent / "__init__.py").exists()
    ]
    twice = [name for name, count in Counter(path.name for path in loose).items() if count > 1]
    assert loose
    assert twice == []
