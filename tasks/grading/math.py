r"""Mathematical equality of a gold answer and a response: exact paths first (`fast.py`), then Math-Verify 0.9 (huggingface/Math-Verify).

Math-Verify's own deadlines are switched off: they use SIGALRM, which only works in a main thread and cannot interrupt a long C call.
Deadlines are the business of `workers.py`, which kills. Call `grade_one` directly only where a hang is acceptable.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from erpd_core.refs import Verdict
from tasks.grading.extract import Answer, boxes, extract
from tasks.grading.fast import compare_plain, gold_text, quick_verdict
from tasks.grading.modes import MODES
from tasks.grading.normalise import balance_braces, drop_approximation, strip_delimiters, unify, words_key
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
    strip_units,
    unstack,
    words,
)

DIGITS = 12
"""Decimals compared after rounding. Math-Verify's default of 6 takes 0.000001 for 0 and 0.3333333333 for 1/3."""


_TRIG_DEGREES = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc)(?:\^\{?\d\}?)?)\s*(?:\\left)?[({]?\s*(\d{1,6}(?:\.\d{1,6})?)\s*\^\s*\{?\s*\\circ\s*\}?\s*(?:\\right)?[)}]?"
)


def grade_one(gold: str, prediction: str, extractor: str = "auto") -> Verdict:
    r"""Grade one response against its gold answer.

    Example: `grade_one("1/2", r"so it is \\boxed{0.5}") == "correct"`

    **Arguments:** `gold`, a bare answer or a worked solution; `prediction`, a bare answer or a whole response; `extractor`, a name in
    `EXTRACTORS` or `MODES`.
    **Returns:** `correct`, `wrong`, or `unparsable` when the response gives no answer. Raises ValueError for an empty gold.
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


def _compare(raw_gold: str, gold: str, answer: Answer) -> Verdict:
    """The slow comparison, in the order of how exact each reading is."""
    if is_prose(gold) and words_key(gold) == words_key(answer.text):
        return "correct"
    if same_groups(gold, answer.text) or same_list(gold, answer.text):
        return "correct"
    gold_groups, groups = assignment_groups(gold), assignment_groups(answer.text)
    if gold_groups and groups and len(gold_groups) != len(groups):
        return "wrong"
    if ("\\pm" in gold) != ("\\pm" in answer.text) and answer.kind == "box":
        gold, raw_gold, answer = spread(gold), spread(raw_gold), Answer(spread(answer.text), answer.kind)
    bare, said = drop_builder(gold), drop_builder(answer.text)
    if (bare, said) != (gold, answer.text):
        gold, raw_gold, answer = bare, bare, Answer(said, answer.kind, said)
    residue, modulus = split_modulus(gold)
    if modulus:
        said, said_modulus = split_modulus(answer.text)
        if said_modulus and said_modulus != modulus:
            return "wrong"
        gold, raw_gold, answer = residue, residue, Answer(said, answer.kind, answer.context)
        plain = compare_plain(gold, answer)
        if plain is not None:
            return plain
    head, condition = split_clause(gold)
    said, said_condition = split_clause(answer.text) if answer.kind == "box" or condition else (answer.text, "")
    if condition and said_condition and condition != said_condition:
        return "wrong"
    if condition:
        gold, raw_gold = balance_dollars(head), balance_dollars(head)
        answer = Answer(balance_dollars(said), answer.kind, answer.context)
        plain = compare_plain(gold, answer)
        if plain is not None:
            return plain
    if is_prose(gold) or is_compound(gold):
        return "correct" if words_key(gold) == words_key(answer.text) else "wrong"
    if answer.kind == "box" and "\\begin" not in answer.text and (negates(answer.text) or evades(answer.text)):
        return "wrong"  # words are compared as words: a number in them does not stand for the whole
    golds = _parse_gold(raw_gold, gold)
    predictions = _parse_answer(answer)
    if not predictions:
        return "unparsable"
    return "correct" if _verify(golds, predictions) else "wrong"


def _parse_gold(raw: str, gold: str) -> list[Any]:
    if len(boxes(raw)) > 1:
        return _search(raw)
    return parse_formula(gold) or _search(raw)


def _parse_answer(answer: Answer) -> list[Any]:
    """A box is read as a formula. Unboxed text is searched by Math-Verify's own patterns, unless it is a formula and nothing else."""
    if answer.kind == "box":
        return parse_formula(unstack(answer.text))
    if not any(len(word) > 2 for word in words(answer.text)) and "\n" not in answer.text:
        parsed = parse_formula(answer.text)
        if any(not isinstance(each, str) for each in parsed):
            return parsed
    return _search(answer.context)


@lru_cache(maxsize=4096)
def _formula_cache(text: str) -> tuple[Any, ...]:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # units=False: Math-Verify would read the variable m of "2-2m" as metres. `strip_units` has taken off real ones.
    spelling = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False)
    config = LatexExtractionConfig(boxed_match_priority=0, normalization_config=spelling)
    return tuple(parse(text, [config], parsing_timeout=None))


def parse_formula(text: str) -> list[Any]:
    r"""`text` as one LaTeX formula; several formulas ("$1$ and $2$") are one list."""
    quiet()
    text = balance_braces(drop_approximation(unify(strip_delimiters(text))))
    if "$" in text or "\\(" in text:
        found = _search(text)
        if any(not isinstance(each, str) for each in found):
            return found
        text = text.replace("$", " ").replace(r"\(", " ").replace(r"\)", " ")
    return list(_formula_cache(f"$\\boxed{{{_latex(strip_units(text))}}}$"))


def _latex(text: str) -> str:
    """Plain-text notation to LaTeX: `sqrt(2)`, `**`, `pi`, `10%`."""
    text = re.sub(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\\A-Za-z])(pi|infty|sin|cos|tan|ln|log)(?![A-Za-z])", r"\\\1", text)
    text = _TRIG_DEGREES.sub(lambda m: rf"{m[1]}\left(\frac{{{m[2]} \pi}}{{180}}\right)", text)
    return re.sub(r"(?<!\\)%", r"\\%", text.replace("**", "^"))


def _search(text: str) -> list[Any]:
    """Math-Verify's search for the answer in running text."""
    from math_verify import parse

    quiet()
    return parse(unify(text), parsing_timeout=None)


def _verify(golds: list[Any], predictions: list[Any]) -> bool:
    from math_verify import verify

    if verify(golds, predictions, float_rounding=DIGITS, timeout_seconds=None):
        return True
    again = [_read_further(golds), _read_further(predictions)]
    return again != [golds, predictions] and bool(verify(*again, float_rounding=DIGITS, timeout_seconds=None))


def _read_further(parsed: list[Any]) -> list[Any]:
    """The formulas with i as the imaginary unit, which Math-Verify takes for a variable, and logarithms of positive letters expanded."""
    from sympy import Basic, I, expand_log, log

    found = []
    for each in parsed:
        if isinstance(each, Basic):
            each = each.subs({letter: I for letter in each.free_symbols if letter.name == "i"})
            each = expand_log(each, force=True) if each.has(log) and each.free_symbols else each
        found.append(each)
    return found


@lru_cache(maxsize=1)
def quiet() -> None:
    """Math-Verify warns that its deadlines are off. They are meant to be."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    logging.getLogger("latex2sympy2_extended").setLevel(logging.ERROR)
