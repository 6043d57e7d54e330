"""Compares the result of a test case with the expected one, by LiveCodeBench's rules.

It runs in the parent process, on data that a hostile program may have chosen.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any


def same_output(printed: str, expected: str) -> bool:
    """Whether two outputs are equal line by line.

    Lines are equal as stripped text, or word by word as decimals. Blank lines count, except at the
    start and the end.

    **Example:** `same_output("1.50 2\\n", "1.5 2.0")` is true; `same_output("1\\n2", "1 2")` is
    not.
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
    """Whether two values parsed from JSON are exactly equal.

    A returned tuple is a list by then. Floats are compared exactly: 0.1 + 0.2 is not 0.3.
    """
    try:
        return bool(value == expected)
    except RecursionError:
        return False
