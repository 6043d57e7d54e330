"""Grading as others do it, whole: their way to find the answer and their way to compare it, for
figures beside theirs.

Our own rule (`math.py`) is the default. These are for evaluation; `erpd grade --mode NAME` and a
problems' `extractor` choose one.
"""

from __future__ import annotations

from collections.abc import Callable

from erpd_core.refs import Verdict
from tasks.grading.extract import after_thinking
from tasks.grading.matharena import grade_matharena
from tasks.grading.polaris import grade_polaris

BARE = 200
"""Characters up to which a text without delimiters is a bare answer."""


def grade_math_verify(gold: str, response: str) -> Verdict:
    """Math-Verify 0.9 as it comes, its defaults and its deadlines off: `verify(parse(gold),
    parse(response))`.

    It finds LaTeX between delimiters only, so a gold or a short answer without any is given
    dollars, as its manual asks.
    """
    from math_verify import parse, verify

    from tasks.grading.math_verify import quiet

    quiet()
    golds, said = (
        parse(_delimited(text.strip()), parsing_timeout=None)
        for text in (gold, after_thinking(response))
    )
    if not said:
        return "unparsable"
    return "correct" if verify(golds, said, timeout_seconds=None) else "wrong"


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
