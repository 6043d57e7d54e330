"""Names that would lead out of a folder, hide, or inject SQL are refused, and nothing changes."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments.cli import main
from erpd_core.config import HubProblems, PackagedModel
from erpd_core.refs import Decision
from flows.recipes.load import load_recipe
from flows.recipes.studies import load_study
from flows.recipes.study_files import remembered
from tasks.datasets import draw_problems
from tasks.datasets.catalogue import benchmark_from_text
from tasks.datasets.hub import lock_path
from tasks.models.import_policy import import_policy
from tasks.registry import Registry
from tasks.store import Store
from tasks.store.manifest import MANIFEST, Manifest, StoredFile
from tasks.store.mirror import Mirror
from tasks.untrusted.paths import path_inside

NAMES = {
    "empty": "",
    "dot": ".",
    "above": "..",
    "beside": "../canary",
    "deep": "a/../../../../canary",
    "absolute": "/etc/passwd",
    "home": "~/canary",
    "nul": "a\0b",
    "backslash": "..\\canary",
    "newline": "a\nb",
    "turned": "a\u202egnp.exe",
    "dots that look like two": "\uff0e\uff0e/canary",
    "slash that looks like one": "..\uff0fcanary",
    "one letter of two dots": "\u2025/canary",
    "half a letter": "a\udcff",
    "long": "a" * 300,
    "long on the whole": "a/" * 3000 + "a",
    "empty part": "a//b",
}
ASKED = NAMES | {
    "sql": "x' OR 1=1 --",
    "sql, double": '"; DROP TABLE campaigns; --',
    "sql, any": "%",
    "sql, any letter": "_____",
    "glob": "*",
    "trailing dot": "night.",
    "terminal": "\x1b[2Jnight",
}
"""Names for the command line: `NAMES`, and others that name no campaign."""
DATA = b"what the file holds"
ID = "policy-" + "0" * 20

names = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own home; nothing answers on the network."""
    monkeypatch.setenv("ERPD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.delenv("ERPD_REGISTRY_URL", raising=False)
    return tmp_path / "home"


def outside(folder: Path, root: Path) -> dict[str, bytes | None]:
    """Content of everything below `folder`, except what is below `root`."""
    paths = (path for path in folder.rglob("*") if not path.is_relative_to(root))
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def refused(error: BaseException) -> str:
    """The error's message, which must be one printable line."""
    line = str(error)
    assert len(line.splitlines()) == 1 and line.isprintable(), line
    return line


# -------------------------------------------------------------------------------------------- files


@names
def test_a_name_stays_in_its_folder_or_is_refused(name: str, tmp_path: Path):
    with pytest.raises(ValueError) as caught:
        path_inside(tmp_path, name, "somebody's list")
    assert refused(caught.value).startswith("somebody's list: the name ")


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a/b.json",
        "a.",
        ".hidden",
        "...a",
        "x y",
        "data/ü-é.parquet",
        "問題.jsonl",
        "a~",
        "a" * 255,
    ],
)
def test_an_ordinary_name_is_taken_as_it_is(name: str, tmp_path: Path):
    assert path_inside(tmp_path, name, "a list") == tmp_path / name


def hostile_manifest(name: str) -> str:
    """A forged manifest with a correct checksum."""
    file = StoredFile(sha256=hashlib.sha256(DATA).hexdigest(), size=len(DATA))
    fields: dict[str, Any] = {
        "id": ID,
        "kind": "policy",
        "question": {},
        "inputs": {},
        "version": 1,
        "meta": {},
        "seconds": 1.0,
    }
    forged = Manifest.model_construct(**fields, files={"a": file}, checksum="").model_dump()
    forged["files"] = {name: file.model_dump()}
    text = json.dumps(
        {key: value for key, value in forged.items() if key != "checksum"},
        separators=(",", ":"),
        ensure_ascii=False,
    )
    forged["checksum"] = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return json.dumps(forged)


def test_a_forged_manifest_would_be_believed_but_for_its_name(tmp_path: Path):
    (tmp_path / MANIFEST).write_text(hostile_manifest("a"))
    assert set(Manifest.read(tmp_path).files) == {"a"}


@names
def test_a_manifest_in_the_store_names_only_files_of_its_folder(name: str, tmp_path: Path):
    (tmp_path / "canary").write_bytes(DATA)
    store = Store(tmp_path / "store")
    store.path(ID).mkdir(parents=True)
    (store.path(ID) / MANIFEST).write_text(hostile_manifest(name))
    before = outside(tmp_path, store.root)
    assert store.damage(ID) == f"{ID}: {MANIFEST} is not readable"
    assert not store.has(ID)
    assert not store.path(ID).exists(), "it is set aside"
    assert outside(tmp_path, store.root) == before


@names
def test_a_mirror_cannot_write_beside_the_store(name: str, tmp_path: Path):
    there = tmp_path / "mirror" / "policy" / ID
    there.mkdir(parents=True)
    (there / MANIFEST).write_text(hostile_manifest(name))
    (tmp_path / "mirror" / "policy" / "canary").write_bytes(DATA)
    store = Store(tmp_path / "store", Mirror(f"file://{tmp_path}/mirror"))
    before = outside(tmp_path, store.root)
    assert not store.has(ID)
    assert outside(tmp_path, store.root) == before
    assert not [path for path in store.root.rglob("*") if path.is_file()]


@names
def test_an_identity_is_a_folder_of_the_store_or_refused(name: str, tmp_path: Path):
    try:
        path = Store(tmp_path).path(name)
    except ValueError as error:
        assert "is not the identity of an artifact; `erpd lineage CAMPAIGN:ROLE` prints" in refused(
            error
        )
    else:
        assert (
            "/" not in name
            and path.parent.parent == tmp_path
            and path.parent.name not in ("", ".", "..")
        )


@names
def test_a_package_gives_only_files_of_its_own(name: str):
    with pytest.raises(ValueError) as caught:
        import_policy(PackagedModel(package="yaml", file=name))
    assert "model.file" in refused(caught.value)


@names
def test_a_hub_lock_names_only_files_of_the_cache(name: str, home: Path):
    lock_path().parent.mkdir(parents=True)
    lock_path().write_text(json.dumps({"some/one@main": {"commit": "abc", "listing": [name]}}))
    before = outside(home.parent, lock_path().parent)
    with pytest.raises(ValueError) as caught:
        draw_problems("prompts", HubProblems(id="some/one", files=("*",)), 0)
    assert f"{lock_path()} is not readable; fix or remove it" in refused(caught.value)
    assert outside(home.parent, lock_path().parent) == before


@names
def test_a_hub_commit_or_revision_is_a_plain_name(name: str, home: Path):
    lock_path().parent.mkdir(parents=True)
    lock_path().write_text(json.dumps({"some/one@main": {"commit": name, "listing": ["a.jsonl"]}}))
    with pytest.raises(ValueError, match="is not readable; fix or remove it"):
        draw_problems("prompts", HubProblems(id="some/one"), 0)
    lock_path().unlink()
    before = outside(home.parent, lock_path().parent)
    with pytest.raises(ValueError) as caught:
        draw_problems("prompts", HubProblems(id="some/one", revision=name), 0)
    refused(caught.value)
    assert outside(home.parent, lock_path().parent) == before


# ------------------------------------------------------------------------------ recipes and studies


@names
def test_a_campaign_has_a_plain_name(name: str):
    with pytest.raises(ValueError) as caught:
        load_recipe("tiny", [f"name={json.dumps(name)}"])
    assert "name" in refused(caught.value)


def study(path: Path, arm: str) -> str:
    path.write_text(
        json.dumps(
            {"description": "x", "scales": {"tiny": {}}, "arms": [{"name": "one"}, {"name": arm}]}
        )
    )
    return str(path)


def test_a_study_with_plain_names_is_read(tmp_path: Path):
    loaded = load_study(study(tmp_path / "mine.yaml", "two"))
    assert (loaded.name, [arm.name for arm in loaded.arms]) == ("mine", ["one", "two"])


@names
def test_arms_have_plain_names(name: str, tmp_path: Path):
    with pytest.raises(ValueError) as caught:
        load_study(study(tmp_path / "mine.yaml", name))
    assert "arms.1.name" in refused(caught.value)


@pytest.mark.parametrize(
    "stem",
    ["..", "~", "..\\canary", "a\nb", "a\u202eb", "\uff0e\uff0e", "A|b", "\x1b[2J"],
    ids=ascii,
)
def test_a_study_file_has_a_plain_name(stem: str, tmp_path: Path):
    with pytest.raises(ValueError) as caught:
        load_study(study(tmp_path / f"{stem}.yaml", "two"))
    assert "name" in str(caught.value)


@pytest.mark.parametrize("name", ASKED.values(), ids=ASKED)
def test_no_study_is_remembered_by_such_a_name(name: str, home: Path):
    (home / "reports" / "night-1").mkdir(parents=True)
    for secret in (
        home / "reports" / "night-1" / "study.json",
        home / "study.json",
        home.parent / "study.json",
    ):
        secret.write_text("{}")  # reading it would raise
    assert remembered(name) is None


@pytest.mark.parametrize("name", ASKED.values(), ids=ASKED)
def test_a_benchmark_of_such_a_name_is_refused(name: str):
    with pytest.raises(ValueError) as caught:
        benchmark_from_text(name, None)
    refused(caught.value)


# --------------------------------------------------------------------------------- the command line

COMMANDS = {
    "report": ["report", "NAME"],
    "reports": ["report", "night", "NAME"],
    "lineage": ["lineage", "NAME"],
    "lineage of a role": ["lineage", "NAME:student"],
    "lineage of a campaign": ["lineage", "night:NAME"],
    "compare": ["compare", "night", "NAME"],
    "decide": ["decide", "NAME", "--strategy", "S1"],
    "gc": ["gc", "--older-than", "0", "--forget", "NAME"],
    "eval": ["eval", "--model", "tiny", "--benchmark", "NAME"],
    "model": ["eval", "--benchmark", "tiny", "--model", "NAME"],
    "show": ["show", "NAME"],
}


@pytest.fixture
def written(home: Path) -> Path:
    """A home with a campaign in its registry, and an artifact that no campaign holds."""
    registry = Registry(f"sqlite:///{home}/registry.db")
    registry.campaign_started(
        "night-0123456789", "night", "tiny", load_recipe("tiny").model_dump(mode="json")
    )
    registry.record_artifact("policy-base", "policy", {}, meta={"ref": {"role": "base", "step": 0}})
    registry.attach("night-0123456789", 0, "base", "policy-base")
    registry.record_decision("night-0123456789", 1, Decision(strategy="S1", reason="better"))
    registry.close()
    with Store(home / "store").build("column", {}, {}, 1) as build:
        assert build is not None
        build.put("bytes", lambda path: path.write_bytes(DATA))
        build.commit({})
    return home


def rows(home: Path) -> list[str]:
    """Everything in the registry, as SQL statements."""
    with sqlite3.connect(home / "registry.db") as database:
        return list(database.iterdump())


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command_finds_nothing_by_such_a_name_and_changes_nothing(
    command: list[str],
    written: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    (written.parent / "cwd").mkdir()
    monkeypatch.chdir(written.parent / "cwd")
    environment = dict(os.environ)
    before, there = rows(written), outside(written.parent, written)
    wrong: dict[str, object] = {}
    for what, name in ASKED.items():
        monkeypatch.setattr(
            sys, "argv", ["erpd", *(word.replace("NAME", name) for word in command)]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        output = capfd.readouterr()
        line = output.err.removesuffix("\n")
        if (
            (ended.value.code, output.out) != (2, "")
            or not line.isprintable()
            or not 20 < len(line) < 2100
        ):
            wrong[what] = (ended.value.code, output)
    for key in os.environ.keys() - environment.keys():
        monkeypatch.delenv(key)
    assert not wrong
    assert rows(written) == before
    assert outside(written.parent, written) == there
    assert Store(written / "store").artifacts("column"), "nothing was collected"
