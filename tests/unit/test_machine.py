"""Freed memory that is kept and given back: a setting of the process, so each test starts one."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.slow

CODE = """
import json, resource, torch
from pathlib import Path
from tasks.host.machine import give_back_memory, keep_freed_memory

def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def resident(): return int(Path("/proc/self/statm").read_text().split()[1])
def micro_batches(count):
    before, pages = faults(), 0
    for number in range(count):
        held = [torch.ones(rows * 49152) for rows in (256, 200 + number % 3, 256)]
        pages += sum(tensor.nbytes for tensor in held) // 4096
        del held
    return (faults() - before) / pages

if KEEP: keep_freed_memory()
micro_batches(8)
new, kept = micro_batches(10), resident()
give_back_memory()
print(json.dumps([new, (kept - resident()) * 4096]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc: nothing is kept")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_is_kept_for_the_next_tensor_until_it_is_given_back(keep: bool):
    done = subprocess.run(
        [sys.executable, "-c", CODE.replace("KEEP", str(keep))],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    new, given = json.loads(done.stdout)
    if keep:
        assert new < 0.1, "after the first rounds almost no page is new"
        assert given > 50e6
    else:
        assert new > 0.5, "by the C library's default most pages are new"


@pytest.mark.parametrize("package", ["sklearn", "scipy"])
def test_transformers_comes_without(package: str):
    """transformers still reports correctly whether the package is available."""
    code = (
        f"import sys, tasks.models.hf, transformers.utils as t; print({package!r} in "
        f"sys.modules, t.is_{package}_available())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.split() == ["False", str(find_spec(package) is not None)]
