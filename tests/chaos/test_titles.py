"""A trial's record names a process the same way on every machine."""

from __future__ import annotations

import pytest
from trials import title


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["/a/b/.venv/bin/python", "-m", "prefect.engine"], "python -m prefect.engine"),
        (
            ["/a/gcs_server", "--log_dir=/tmp/x/logs", "--url=http://127.0.0.1:8/api/x"],
            "gcs_server --log_dir=logs --url=http://127.0.0.1:8/api/x",
        ),
        (["ray::import      "], "ray::import"),
    ],
)
def test_a_title_has_no_folders(command: list[str], shown: str):
    assert title(command) == shown
