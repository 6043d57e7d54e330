r"""Decides whether a response equals its gold answer.

Exact comparisons come first (`fast.py`), then structure (`structure.py`), then Math-Verify 0.9
(`math_verify.py`).

Math-Verify's own deadlines are off: they use SIGALRM, which works only in a main thread and cannot
interrupt a long C call. `workers.py` enforces deadlines by killing the process. Call `grade_one`
directly only where a hang is acceptable.
"""

from __future__ import annotations

from typing import Any

from erpd_core.refs import Verdict
from tasks.grading.extract import ExtractedAnswer, boxes, extract
from tasks.grading.fast import compare_plain, gold_text, quick_verdict
from tasks.grading.math_verify import parse_formula, search, verify
from tasks.grading.modes import MODES
from tasks.grading.normalize import words_key
from tasks.grading.structure import (
    assignment_groups,
    balance_dollars,
    drop_builder,
    evades,
    is_compound,
    is_prose,
    negates,
    same_groups,
    same_list,
    split_clause,
    split_modulus,
    spread,
    unstack,
    words,
)


def grade_one(gold: str, prediction: str, extractor: str = "auto") -> Verdict:
    r"""Grade one response against its gold answer.

    **Example:** `grade_one("1/2", r"so it is \\boxed{0.5}") == "correct"`

    **Arguments:**
        gold: A bare answer or a worked solution.
        prediction: A bare answer or a whole response.
        extractor: A name in `EXTRACTORS` or `MODES`.
    **Returns:** `correct`, `wrong`, or `unparsable` if the response gives no answer.
    **Raises:** ValueError if the gold is empty.
    """
    quick = quick_verdict(gold, prediction, extractor)
    if quick is not None:
        return quick
    if extractor in MODES:
        return MODES[extractor](gold_text(gold), prediction)
    answer = extract(prediction, extractor)
    if answer is None:
        return "unparsable"
    return _compare(gold, gold_text(gold), answer)


def _compare(raw_gold: str, gold: str, answer: ExtractedAnswer) -> Verdict:
    """Compare by structure and with Math-Verify, the most exact reading first."""
    if is_prose(gold) and words_key(gold) == words_key(answer.text):
        return "correct"
    if same_groups(gold, answer.text) or same_list(gold, answer.text):
        return "correct"
    gold_groups, groups = assignment_groups(gold), assignment_groups(answer.text)
    if gold_groups and groups and len(gold_groups) != len(groups):
        return "wrong"
    if ("\\pm" in gold) != ("\\pm" in answer.text) and answer.kind == "box":
        gold, raw_gold, answer = (
            spread(gold),
            spread(raw_gold),
            ExtractedAnswer(spread(answer.text), answer.kind),
        )
    bare, given = drop_builder(gold), drop_builder(answer.text)
    if (bare, given) != (gold, answer.text):
        gold, raw_gold, answer = bare, bare, ExtractedAnswer(given, answer.kind, given)
    residue, modulus = split_modulus(gold)
    if modulus:
        given, given_modulus = split_modulus(answer.text)
        if given_modulus and given_modulus != modulus:
            return "wrong"
        gold, raw_gold, answer = (
            residue,
            residue,
            ExtractedAnswer(given, answer.kind, answer.context),
        )
        plain = compare_plain(gold, answer)
        if plain is not None:
            return plain
    head, condition = split_clause(gold)
    given, given_condition = (
        split_clause(answer.text) if answer.kind == "box" or condition else (answer.text, "")
    )
    if condition and given_condition and condition != given_condition:
        return "wrong"
    if condition:
        gold, raw_gold = balance_dollars(head), balance_dollars(head)
        answer = ExtractedAnswer(balance_dollars(given), answer.kind, answer.context)
        plain = compare_plain(gold, answer)
        if plain is not None:
            return plain
    if is_prose(gold) or is_compound(gold):
        return "correct" if words_key(gold) == words_key(answer.text) else "wrong"
    if (
        answer.kind == "box"
        and "\\begin" not in answer.text
        and (negates(answer.text) or evades(answer.text))
    ):
        return "wrong"  # prose equals only the same prose, not a number that it contains
    golds = _parse_gold(raw_gold, gold)
    predictions = _parse_answer(answer)
    if not predictions:
        return "unparsable"
    return "correct" if verify(golds, predictions) else "wrong"


def _parse_gold(raw: str, gold: str) -> list[Any]:
    if len(boxes(raw)) > 1:
        return search(raw)
    return parse_formula(gold) or search(raw)


def _parse_answer(answer: ExtractedAnswer) -> list[Any]:
    """Parse a box as a formula and other text with Math-Verify's search.

    Unboxed text that is only a formula is parsed as a formula too.
    """
    if answer.kind == "box":
        return parse_formula(unstack(answer.text))
    if not any(len(word) > 2 for word in words(answer.text)) and "\n" not in answer.text:
        parsed = parse_formula(answer.text)
        if any(not isinstance(formula, str) for formula in parsed):
            return parsed
    return search(answer.context)
