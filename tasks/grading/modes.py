"""Grading rules of other projects (extraction and comparison), for results comparable to theirs.

Our own rule (`math.py`) is the default. The modes are for evaluation. Select one with
`erpd grade --mode NAME` or with the `extractor` of a problem section.
"""

from __future__ import annotations

from collections.abc import Callable

from erpd_core.refs import Verdict
from tasks.grading.extract import after_thinking
from tasks.grading.math_verify import quiet
from tasks.grading.matharena import grade_matharena
from tasks.grading.polaris import grade_polaris

BARE = 200
"""A text without delimiters is a bare answer if it has fewer characters than this."""


def grade_math_verify(gold: str, response: str) -> Verdict:
    """Grade with unmodified Math-Verify 0.9: `verify(parse(gold), parse(response))`.

    Settings are its defaults, except that its deadlines are off. Math-Verify finds LaTeX only
    between delimiters, so a gold or short answer without delimiters is put between dollar signs,
    as its manual requires.
    """
    from math_verify import parse, verify

    quiet()
    golds, answers = (
        parse(_delimited(text.strip()), parsing_timeout=None)
        for text in (gold, after_thinking(response))
    )
    if not answers:
        return "unparsable"
    return "correct" if verify(golds, answers, timeout_seconds=None) else "wrong"


def _delimited(text: str) -> str:
    bare = len(text) < BARE and not any(
        mark in text for mark in ("$", "\\boxed", "\\(", "\\[", "\n", "answer")
    )
    return f"${text}$" if bare else text


MODES: dict[str, Callable[[str, str], Verdict]] = {
    "math_verify": grade_math_verify,
    "polaris": grade_polaris,
    "matharena": grade_matharena,
}
