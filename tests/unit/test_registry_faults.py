"""Damaged SQLite databases are detected and named with a remedy, and never hang.

A damaged database of a view (Prefect, MLflow) is set aside, and a new one is started.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.host.sqlite import damage, set_aside_if_damaged
from tasks.registry import Registry

pytestmark = pytest.mark.slow

PAGE = 4096


def overwritten_header(path: Path) -> None:
    _overwrite(path, 0, b"not a database at all")


def overwritten_page(path: Path) -> None:
    _overwrite(path, path.stat().st_size // PAGE // 2 * PAGE, os.urandom(PAGE))


def overwritten_everywhere_but_the_first(path: Path) -> None:
    _overwrite(path, PAGE, b"\xff" * (path.stat().st_size - PAGE))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // PAGE // 2 * PAGE)


def cut_within_a_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size - PAGE - 100)


HARMS = [
    overwritten_header,
    overwritten_page,
    overwritten_everywhere_but_the_first,
    cut_short,
    cut_within_a_page,
]


def _overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def filled(path: Path) -> Path:
    registry = Registry(f"sqlite:///{path}")
    registry.campaign_started("c-1", "demo", "tiny", {"text": "x" * 500})
    for number in range(60):
        registry.record_artifact(
            f"policy-{number}",
            "policy",
            {"text": "x" * 500},
            [("init", f"policy-{number - 1}")] if number else [],
        )
        registry.attach("c-1", number, "student", f"policy-{number}")
    registry.close()
    return path


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_registry_is_named_and_left_where_it_is(
    tmp_path: Path, harm: Callable[[Path], None]
):
    path = filled(tmp_path / "registry.db")
    harm(path)
    before = path.read_bytes()
    with pytest.raises(
        ValueError,
        match=f"the registry {path} is damaged .*put a backup in its place, or move it away",
    ) as caught:
        Registry(f"sqlite:///{path}").check()
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_whoever_comes_to_a_damaged_page_is_told_the_same(tmp_path: Path):
    path = filled(tmp_path / "registry.db")
    overwritten_everywhere_but_the_first(path)
    with pytest.raises(ValueError, match="is damaged"):
        registry = Registry(f"sqlite:///{path}")
        registry.artifacts("c-1")


def test_a_sound_registry_passes(tmp_path: Path):
    Registry(f"sqlite:///{filled(tmp_path / 'registry.db')}").check()


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_view_makes_way_for_a_new_one(
    tmp_path: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
):
    path = filled(tmp_path / "prefect.db")
    harm(path)
    harmed = path.read_bytes()
    Path(f"{path}-wal").write_bytes(b"log")
    with caplog.at_level(logging.WARNING, "erpd"):
        set_aside_if_damaged(path, "its history starts again")
    assert not path.exists() and not Path(f"{path}-wal").exists()
    copy, *logs = sorted(tmp_path.glob("prefect.db.damaged-*"))
    assert copy.read_bytes() == harmed and Path(f"{copy}-wal") in logs
    (message,) = [record.getMessage() for record in caplog.records if record.name == "erpd"]
    assert message.startswith(f"{path} is damaged (") and message.endswith(
        f"it is set aside as {copy.name}: its history starts again"
    )
    assert "\n" not in message


def test_a_database_that_is_sound_in_use_or_not_there_stays(tmp_path: Path):
    path = filled(tmp_path / "mlflow.db")
    with sqlite3.connect(path) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        set_aside_if_damaged(path, "")
        writer.rollback()
    writer.close()
    set_aside_if_damaged(tmp_path / "none.db", "")
    assert damage(path) is None and sorted(file.name for file in tmp_path.glob("*.db")) == [
        "mlflow.db"
    ]
    assert not list(tmp_path.glob("*.damaged-*"))
