"""Helpers for tests of HTML pages: a parsed page, and a hostile text with markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

HOSTILE = "<script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>"


class Page(HTMLParser):
    """A parsed page: its elements, its rows of cells, its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._cell = False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == name)

    @property
    def names(self) -> set[str]:
        return {tag for tag, _ in self.tags}
