"""`erpd gc` on campaigns recorded as flows record them, and on a real one."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from helpers import Campaign, erpd, events, numbers, run_campaign
from written_campaigns import NIGHT, NOON, Written, refused, shown

from deployments.output.lineage import lineage_tree
from flows.inspect.lineage import lineage_lines
from tasks.store import Store
from tasks.store.manifest import MANIFEST

pytestmark = pytest.mark.slow


def make_old(store: Store, days: float = 30.0) -> None:
    moment = time.time() - days * 86400
    for path in store.root.glob(f"*/*/{MANIFEST}"):
        os.utime(path, (moment, moment))


def test_the_command_says_what_would_go_and_why_the_rest_stays_and_then_does_it(written: Written):
    night, noon = written.campaign("night", NIGHT), written.campaign("noon", NOON)
    stray = written.artifact("policy", {"files": "stray"}, {}, {"role": "base"})
    make_old(written.store)
    before = {path: path.read_bytes() for path in written.store.root.rglob("*") if path.is_file()}

    would = json.loads(
        erpd(
            "gc",
            "--dry-run",
            "--forget",
            "noon",
            "--json",
            home=written.home,
            ERPD_REGISTRY_URL=written.url,
        ).stdout
    )
    text = erpd(
        "gc", "--dry-run", "--forget", "noon", home=written.home, ERPD_REGISTRY_URL=written.url
    ).stdout
    assert {
        path: path.read_bytes() for path in written.store.root.rglob("*") if path.is_file()
    } == before
    assert f"{noon}: would be forgotten" in text and "Nothing was changed" in text
    assert f"needed by {night}:" in text and f"{night}:2.student" in text
    kinds = {item["id"].partition("-")[0] for item in would["removed"]["items"]}
    assert kinds == {"policy", "training", "column", "evaluation"} and would["forgotten"] == [noon]
    assert stray in {item["id"] for item in would["removed"]["items"]}

    done = json.loads(
        erpd(
            "gc", "--forget", noon, "--json", home=written.home, ERPD_REGISTRY_URL=written.url
        ).stdout
    )
    assert done["removed"] == would["removed"] and done["spared"] == []
    assert done["removed"]["bytes"] == sum(
        len(data) for path, data in before.items() if not path.exists() and path.suffix != ".lock"
    )
    needed = {
        entry.line.artifact.id
        for iteration in (1, 2)
        for entry in lineage_lines(written.registry, written.policy(night, iteration, "student"))
    }
    assert all(written.store.damage(artifact) is None for artifact in needed)
    gone = lineage_lines(written.registry, written.policy(noon, 1, "student"))
    assert gone[
        0
    ].line.artifact.removed_at is not None and f"{gone[0].line.artifact.id} (removed)" in shown(
        lineage_tree(gone)
    )
    listed = json.loads(
        erpd("campaigns", "--json", home=written.home, ERPD_REGISTRY_URL=written.url).stdout
    )["campaigns"]
    assert [campaign["id"] for campaign in listed] == [night]
    every = json.loads(
        erpd(
            "campaigns", "--all", "--json", home=written.home, ERPD_REGISTRY_URL=written.url
        ).stdout
    )["campaigns"]
    assert [campaign["id"] for campaign in every if campaign["forgotten_at"]] == [noon]


def test_gc_refuses_what_cannot_be(tmp_path: Path):
    assert "no campaign 'dawn'" in refused(
        erpd("gc", "--forget", "dawn", "--dry-run", home=tmp_path)
    )
    assert erpd("gc", "--older-than", "-1", home=tmp_path).returncode == 2


@pytest.mark.long
def test_a_collected_campaign_has_all_it_needs_to_be_run_again(
    undisturbed: Campaign, tmp_path_factory: pytest.TempPathFactory
):
    """After a collection without an age limit, the same command finds every result stored.

    The student's lineage is whole.
    """
    folder = tmp_path_factory.mktemp("collected")
    (folder / "home").mkdir()
    shutil.copytree(undisturbed.home / "store", folder / "home" / "store")
    for path in undisturbed.home.glob("registry.db*"):  # with its write-ahead log
        shutil.copy(path, folder / "home" / path.name)
    done = json.loads(erpd("gc", "--older-than", "0", "--json", home=folder / "home").stdout)
    gone = {item["id"].partition("-")[0] for item in done["removed"]["items"]}
    assert gone == {"rollouts", "column"}, "samples of evaluations, whose results are kept"

    again = run_campaign(folder, arguments=undisturbed.arguments)
    assert numbers(again.result) == numbers(undisturbed.result)
    statuses = {event["status"] for event in events(folder / "home") if "status" in event}
    assert "started" not in statuses and "cached" in statuses
    lineage = json.loads(erpd("lineage", "tiny:2.student", "--json", home=folder / "home").stdout)
    store = Store(folder / "home" / "store")
    assert len(lineage["lines"]) > 20 and all(
        store.damage(line["id"]) is None for line in lineage["lines"]
    )
