"""Make untrusted text safe to display: text by models, from data, or by other users.

Only the displayed text is changed. Files keep the original.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

SHOWN = 2000
"""Maximum characters of one text that are shown; the rest is cut off."""
MARKUP = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]~|"} | {"<": "&lt;", "&": "&amp;"})
"""Characters that are markup anywhere in Markdown -> their escaped forms."""
_BLOCK = re.compile(r"^(\d*)(#+(?=\s|$)|[+.)-](?=\s|$)|>|[-=]+$)")
"""Matches the beginning of a line that makes it a heading, a quotation or a list."""
_ADDRESS = re.compile(r"(?i)(\bwww|\b[a-z]+(?=://)|(?<=\w)(?=@[\w-]+\.))([.:@])")
"""Matches bare text that Markdown turns into a link; it is split before its `.`, `:` or `@`."""
ESCAPED = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode categories shown as escapes: characters that move the cursor, colour a terminal or
change the direction of text.
"""


def one_line(text: str, limit: int = SHOWN) -> str:
    """Convert a text to one line for a terminal or a log, of at most `limit` characters.

    White space becomes one space and invisible characters become escapes such as `\\x1b`. A text
    that is cut ends with its number of characters.

    **Example:** `one_line("a\\n\\x1b[31mb") == "a \\\\x1b[31mb"`
    """
    head = " ".join(text[: 4 * limit].split())
    more = f"... ({len(text)} characters)" if len(text) > limit else ""
    return visible(head[:limit]) + more


def visible(text: str) -> str:
    """Replace invisible characters by escapes; keep spaces."""
    return text if text.isprintable() else "".join(_seen(letter) for letter in text)


def visible_lines(text: str) -> str:
    """Apply `visible` to each line, keeping the line ends."""
    return "\n".join(visible(line) for line in text.split("\n"))


def markdown(text: str) -> str:
    """Convert a text to one line of Markdown without markup, links or cell ends.

    The result can also be used as a cell of a Markdown table.

    **Example:** `markdown("**a** <b> www.c.de") == r"\\*\\*a\\*\\* &lt;b> www\\.c.de"`
    """
    line = one_line(text).translate(MARKUP)
    line = _BLOCK.sub(r"\1\\\2", line)
    return _ADDRESS.sub(r"\1\\\2", line)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table; each cell is escaped with `markdown`."""
    first, *others = (f"| {' | '.join(map(markdown, line))} |" for line in (head, *rows))
    return "\n".join([first, f"|{'---|' * len(head)}", *others])


def _seen(letter: str) -> str:
    return ascii(letter)[1:-1] if unicodedata.category(letter) in ESCAPED else letter
