"""Which long tests a change asks for: those of the packages that it touches.

`make test` leaves out tests marked `long`. `make test-all` runs every test, and CI does so nightly
and before a release. With `--changed-since REF` (`make test SINCE=REF`) the long tests of a file in
`COVERS` run too if anything below one of its paths differs from REF, or if the file itself does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COVERS: dict[str, tuple[str, ...]] = {
    "tests/browser/test_tour.py": ("flows/live", "flows/recipes/forms.py", "deployments"),
    "tests/chaos/test_chaos.py": ("tasks/execution", "tasks/store", "tasks/registry"),
    "tests/integration/test_campaign.py": ("flows/steps", "flows/campaign.py", "tasks/execution"),
    "tests/integration/test_cli_eval.py": ("tasks/evaluation", "flows/inspect"),
    "tests/integration/test_cluster_services.py": ("docker", "tasks/host", "tasks/execution"),
    "tests/integration/test_damaged_home.py": ("tasks/store", "tasks/registry", "tasks/host"),
    "tests/integration/test_deployments.py": ("deployments", "flows/live", "flows/steps"),
    "tests/integration/test_docs_walkthroughs.py": ("docs", "flows/recipes"),
    "tests/integration/test_fault_messages.py": ("erpd_core", "flows/steps"),
    "tests/integration/test_full_home.py": ("tasks/store", "tasks/host", "tasks/registry"),
    "tests/integration/test_inputs_read_once.py": ("flows/steps", "tasks/models", "tasks/host"),
    "tests/integration/test_judge_vllm.py": ("tasks/evaluation/judge", "tasks/engines"),
    "tests/integration/test_outage.py": ("flows/steps/tracking_queue.py", "tasks/tracking.py"),
    "tests/integration/test_platform.py": ("deployments/servers",),
    "tests/integration/test_ray_runner.py": ("tasks/execution",),
    "tests/integration/test_samplers.py": ("tasks/rollouts", "tasks/execution", "tasks/engines"),
    "tests/integration/test_scorers.py": ("tasks/rollouts", "tasks/execution"),
    "tests/integration/test_secrets.py": ("deployments/servers", "tasks/host"),
    "tests/integration/test_side_by_side.py": ("flows/ablation.py", "tasks/execution"),
    "tests/integration/test_stopping.py": ("tasks/host", "tasks/execution", "deployments/commands"),
    "tests/integration/test_study.py": ("flows/ablation.py", "flows/recipes", "flows/reports"),
    "tests/integration/test_tracking.py": ("tasks/tracking.py", "flows/steps/tracking_queue.py"),
    "tests/integration/test_trainers.py": ("tasks/training", "tasks/execution", "erpd_core"),
    "tests/integration/test_vllm_flows.py": ("tasks/engines", "tasks/training/online.py"),
    "tests/unit/test_datasets_hub.py": ("tasks/datasets",),
    "tests/unit/test_gc_command.py": ("tasks/store",),
    "tests/unit/test_sharding.py": ("tasks/training", "erpd_core"),
}
"""Test file -> the paths whose change makes its long tests run."""


def changed_since(ref: str) -> list[str]:
    """The paths that differ from a commit, and those that git does not know yet.

    **Raises:** pytest.UsageError if there is no such commit.
    """
    changed = []
    for command in (["diff", "--name-only", ref], ["ls-files", "--others", "--exclude-standard"]):
        done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise pytest.UsageError(f"--changed-since {ref}: {done.stderr.strip()}")
        changed += done.stdout.splitlines()
    return changed


def asked_for(test_file: str, changed: Iterable[str]) -> bool:
    """Whether changed paths ask for the long tests of a file."""
    paths = (test_file, *COVERS.get(test_file, ()))
    return any(
        change == path or change.startswith(f"{path}/") for change in changed for path in paths
    )


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the long tests that no change asks for."""
    ref = config.getoption("--changed-since")
    # a branch's first push has no commit before it: git's hooks give zeros
    changed = changed_since(ref) if ref and set(ref) != {"0"} else []
    wanted, left_out = [], []
    for item in items:
        file = item.path.relative_to(ROOT).as_posix()
        kept = item.get_closest_marker("long") is None or asked_for(file, changed)
        (wanted if kept else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = wanted
