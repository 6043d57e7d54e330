"""Fixtures shared by several unit test files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from written_campaigns import Written


@pytest.fixture
def written(tmp_path: Path, registry_url: str) -> Iterator[Written]:
    """Written campaigns, once on SQLite and once on PostgreSQL."""
    campaigns = Written(tmp_path, registry_url)
    yield campaigns
    campaigns.registry.close()
