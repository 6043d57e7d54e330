"""Small runs of the load tests in `scripts.load`: nothing is lost, and results are right.

Speed is measured elsewhere.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from flows.inspect.campaigns import campaign_summaries
from flows.inspect.compare import compare_campaigns
from flows.inspect.gc import clean
from flows.inspect.lineage import lineage_lines, resolve_artifact
from flows.recipes.load import load_recipe
from scripts.load import trajectories, writers
from scripts.load.book import PARENTS, fill
from tasks.registry import Registry
from tasks.store import Store

pytestmark = pytest.mark.slow

COUNT = 500


def test_a_registry_of_many_campaigns_answers_right(registry_url: str, tmp_path: Path):
    fill(registry_url, COUNT, load_recipe("tiny", []))
    store = Store(tmp_path / "store")
    with closing(Registry(registry_url)) as registry:
        assert len(registry.campaigns()) == COUNT and registry.unfinished() == []
        assert [summary.campaign.id for summary in campaign_summaries(registry, last=3)] == [
            "load-000499",
            "load-000498",
            "load-000497",
        ]
        newest = resolve_artifact(registry, "load-000499:student")
        assert newest == "policy-000499student"
        assert {entry.line.artifact.id for entry in lineage_lines(registry, newest)} >= {
            "policy-base",
            "rollouts-000499",
            "column-000499teacher",
        }
        assert len(lineage_lines(registry, "problems-test", descendants=True)) == 1 + 2 * COUNT
        pair = compare_campaigns(registry, store, "load-000499", "load-000000")
        assert pair.config == {"seed": (499, 0)} and pair.students[0].report.policy == newest
        assert len(registry.held()) == 6 * COUNT and len(registry.edges()) == COUNT * sum(
            map(len, PARENTS.values())
        )
        assert clean(registry, store, [], 7.0, dry_run=True).went == ()
        with pytest.raises(
            LookupError,
            match=r"fits several campaigns: load-000499, load-000498, .*, \.\.\.; give more of "
            r"the name",
        ):
            registry.campaign("load-")


def test_writers_at_once_lose_nothing_and_none_is_turned_away(tmp_path: Path):
    measured = writers.measure(tmp_path, 4, "sqlite", campaigns=3)
    assert measured["writes"] == 4 * 3 * 8


def test_many_trajectories_come_back_all(tmp_path: Path):
    measured = trajectories.measure(tmp_path, 1280, length=64)
    assert measured["trajectories"] == 1280 and measured["tokens"] == 1280 * 64
