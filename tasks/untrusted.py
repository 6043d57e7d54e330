"""Text that models, data or other people wrote, made safe for where it is shown. What is kept in files stays as it was written."""

from __future__ import annotations

import unicodedata

SHOWN = 2000
"""Characters of one text that are shown; of a response of a megabyte, its beginning."""
ESCAPED = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode categories that are shown by their numbers: what moves a cursor, colours a terminal or turns lines around."""


def one_line(text: str, limit: int = SHOWN) -> str:
    """In one line for a terminal or a log: white space is one space, unseen characters are `\\x1b` and the like, and its length is bounded.

    Example: `one_line("a\\n\\x1b[31mb") == "a \\\\x1b[31mb"`
    """
    head = " ".join(text[: 4 * limit].split())
    more = f"... ({len(text)} characters)" if len(text) > limit else ""
    return visible(head[:limit]) + more


def visible(text: str) -> str:
    """With what cannot be seen shown by its number; spaces stay."""
    return text if text.isprintable() else "".join(_seen(letter) for letter in text)


def visible_lines(text: str) -> str:
    """The same, line by line."""
    return "\n".join(visible(line) for line in text.split("\n"))


def markdown(text: str) -> str:
    """In one line of Markdown or one cell of a table there, as plain text: no markup, no link, no end of the cell."""
    line = one_line(text).replace("\\", "\\\\").replace("|", "\\|")
    return line.replace("<", "&lt;").replace("`", "\\`").replace("](", "]\\(")


def _seen(letter: str) -> str:
    return ascii(letter)[1:-1] if unicodedata.category(letter) in ESCAPED else letter
