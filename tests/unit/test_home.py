"""Ray's token in the home folder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.host.home import _make_token


def test_the_token_is_for_this_user_alone_and_stays(tmp_path: Path) -> None:
    token = tmp_path / "token"
    _make_token(token)
    content = token.read_text()
    assert len(content) == 64 and int(content, 16) and token.stat().st_mode & 0o777 == 0o600
    _make_token(token)
    assert token.read_text() == content and [path.name for path in tmp_path.iterdir()] == ["token"]


def test_an_empty_token_is_made_anew(tmp_path: Path) -> None:
    """A full disk may leave an empty token, which Ray would refuse indefinitely."""
    token = tmp_path / "token"
    token.touch()
    _make_token(token)
    assert len(token.read_text()) == 64


def test_of_many_who_make_it_at_once_all_have_one(tmp_path: Path) -> None:
    token = tmp_path / "token"

    def made(_: int) -> str:
        _make_token(token)
        return token.read_text()

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(made, range(64)))) == 1


def test_a_full_disk_leaves_no_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        _make_token(tmp_path / "token")
    assert not list(tmp_path.iterdir())
