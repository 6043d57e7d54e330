"""Text that models, data or other people wrote, made safe for where it is shown. What is kept in
files stays as it was written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

SHOWN = 2000
"""Characters of one text that are shown; of a response of a megabyte, its beginning."""
MARKUP = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]~|"} | {"<": "&lt;", "&": "&amp;"})
"""Signs that Markdown obeys wherever they stand -> as themselves."""
_BLOCK = re.compile(r"^(\d*)(#+(?=\s|$)|[+.)-](?=\s|$)|>|[-=]+$)")
"""What makes a heading, a quotation or a list of a line that begins with it."""
_ADDRESS = re.compile(r"(?i)(\bwww|\b[a-z]+(?=://)|(?<=\w)(?=@[\w-]+\.))([.:@])")
"""What is made a link where it stands bare; broken before its sign."""
ESCAPED = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode categories that are shown by their numbers: what moves a cursor, colours a terminal or
turns lines around.
"""


def one_line(text: str, limit: int = SHOWN) -> str:
    """In one line for a terminal or a log: white space is one space, unseen characters are `\\x1b`
    and the like, and its length is bounded.

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
    """In one line of Markdown or one cell of a table there, as plain text: no markup, no link, no
    end of the cell.

    Example: `markdown("**a** <b> www.c.de") == r"\\*\\*a\\*\\* &lt;b> www\\.c.de"`
    """
    line = one_line(text).translate(MARKUP)
    line = _BLOCK.sub(r"\1\\\2", line)
    return _ADDRESS.sub(r"\1\\\2", line)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of such texts."""
    first, *others = (f"| {' | '.join(map(markdown, line))} |" for line in (head, *rows))
    return "\n".join([first, f"|{'---|' * len(head)}", *others])


def _seen(letter: str) -> str:
    return ascii(letter)[1:-1] if unicodedata.category(letter) in ESCAPED else letter
