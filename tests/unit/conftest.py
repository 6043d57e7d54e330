"""What several files of unit tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from written_campaigns import Written


@pytest.fixture
def written(tmp_path: Path, registry_url: str) -> Iterator[Written]:
    """Once on SQLite, and once on PostgreSQL."""
    one = Written(tmp_path, registry_url)
    yield one
    one.registry.close()
