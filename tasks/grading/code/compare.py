"""Is a case's result the expected one? LiveCodeBench's comparison. It runs in the parent, on
what a hostile program chose to send.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any


def same_output(printed: str, expected: str) -> bool:
    """Equal line by line: as stripped text, else word by word as decimals. Blank lines count,
    except at both ends.

    Example: `same_output("1.50 2\\n", "1.5 2.0")` is true; `same_output("1\\n2", "1 2")` is not.
    """
    lines, wanted = _lines(printed), _lines(expected)
    return len(lines) == len(wanted) and all(map(_same_line, lines, wanted))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _same_line(line: str, wanted: str) -> bool:
    if line == wanted:
        return True
    words, wanted_words = line.split(), wanted.split()
    if len(words) != len(wanted_words):
        return False
    try:
        return all(
            Decimal(word) == Decimal(other) for word, other in zip(words, wanted_words, strict=True)
        )
    except InvalidOperation:
        return False


def same_value(value: Any, expected: Any) -> bool:
    """Equal as Python values that came out of JSON, so a tuple is a list, and exactly: 0.1 + 0.2
    is not 0.3.
    """
    try:
        return bool(value == expected)
    except RecursionError:
        return False
