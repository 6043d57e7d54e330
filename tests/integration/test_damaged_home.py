"""A finished home with damage to every part: each is reported, and the numbers stay the same."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from helpers import Campaign, erpd, flip_a_bit, numbers, run_campaign

from tasks.execution.progress import follow
from tasks.registry import Registry
from tasks.store import Store
from tasks.store.manifest import MANIFEST

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KINDS = ("policy", "problems", "rollouts", "column", "training", "evaluation")


def complete_events(home: Path) -> list[dict[str, Any]]:
    """Every complete event: a full disk cuts the last one short."""
    return [
        event for path in (home / "logs").glob("*.events.jsonl") for event in follow(path, 0)[0]
    ]


def harm_every_part(home: Path) -> dict[str, str]:
    """Damage one artifact of each kind, a manifest, and the databases of Prefect and MLflow.

    **Returns:** Expected message -> the damaged part.
    """
    store, harmed = Store(home / "store"), {}
    with closing(Registry(f"sqlite:///{home / 'registry.db'}")) as registry:
        (campaign,) = registry.campaigns()
        attached = [entry.artifact.id for entry in registry.artifacts(campaign.id)]
    of_kind = {kind: [id for id in attached if id.startswith(f"{kind}-")] for kind in KINDS}
    for number, kind in enumerate(KINDS):
        artifact = of_kind[kind][0]
        folder = store.path(artifact)
        largest = max(
            (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST),
            key=lambda path: path.stat().st_size,
        )
        if number % 2:
            data = largest.read_bytes()
            largest.unlink()  # other files may be hard links to it
            largest.write_bytes(data[: len(data) // 2])
        else:
            flip_a_bit(largest)
        harmed[f"{artifact}: {largest.relative_to(folder)} does not match its manifest"] = kind
    manifest = store.path(of_kind["training"][-1]) / MANIFEST
    manifest.write_text(manifest.read_text().replace('"seconds": ', '"seconds": 1', 1))
    harmed[f"{manifest.parent.name}: {MANIFEST} is not readable"] = "manifest"
    for name in ("prefect/prefect.db", "mlflow/mlflow.db"):
        with (home / name).open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(3 * 4096))
        harmed[f"{home / name} is damaged ("] = name
    return harmed


@pytest.fixture
def folder(undisturbed: Campaign) -> Iterator[Path]:
    """A folder with a copy of the finished campaign's home, to be damaged."""
    with tempfile.TemporaryDirectory(prefix="e-", dir="/tmp", ignore_cleanup_errors=True) as name:
        shutil.copytree(undisturbed.home, Path(name) / "home")
        yield Path(name)


@pytest.mark.long
def test_every_damaged_part_is_named_and_made_again(folder: Path, undisturbed: Campaign):
    harmed = harm_every_part(folder / "home")
    again = run_campaign(folder, arguments=undisturbed.arguments)
    assert numbers(again.result) == numbers(undisturbed.result)
    printed = "".join(again.done.stderr.split())  # long lines are wrapped
    missing = [part for words, part in harmed.items() if "".join(words.split()) not in printed]
    assert missing == []
    ours, theirs = Store(folder / "home" / "store"), Store(undisturbed.home / "store")
    for kind in KINDS:
        assert ours.artifacts(kind) == theirs.artifacts(kind)
        assert [
            damage for artifact in ours.artifacts(kind) if (damage := ours.damage(artifact))
        ] == []
    assert len(list((ours.root / "damaged").iterdir())) >= 7

    with (folder / "home" / "registry.db").open("r+b") as file:
        file.write(b"nothing that SQLite knows")
    refused = erpd(*undisturbed.arguments, home=folder / "home")
    assert refused.returncode == 2 and refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert (
        line.startswith(f"erpd: the registry {folder / 'home' / 'registry.db'} is damaged (")
        and "put a backup in its place" in line
    )
