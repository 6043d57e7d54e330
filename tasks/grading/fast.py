"""Verdicts that need no computer algebra.

They are computed in the caller's process, so worker processes start only when needed.
"""

from __future__ import annotations

import re
from typing import get_args

from erpd_core.refs import Mode, Verdict
from tasks.grading.extract import (
    ExtractedAnswer,
    boxes,
    extract,
    last_boxed,
    last_hash,
    last_marked,
)
from tasks.grading.normalize import balance_braces, key, tidy, unwrap
from tasks.grading.numbers import read_based, read_number, same_number
from tasks.grading.structure import denied

MAX_ANSWER = 10_000
"""Characters of the longest answer that is parsed.

A longer one is a runaway response and is compared only as a string.
"""

_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?:(?:\\text\{)?([ap])\.?m\.?\}?)?", re.IGNORECASE)
_LETTER = re.compile(r"\(?([A-Z])\)?")
_LETTERS = re.compile(r"\W*[A-Z]\)?(?:\s*(?:,|;|/|&|and|or|\s)\s*\(?[A-Z]\)?)+\W*")
_LETTER_START = re.compile(r"\W*([A-Z])(?:\W|[^\x00-\x7f]|$)")
_LETTER_MARKED = re.compile(r"(?<![A-Za-z])\(?([A-HJ-Z])\)?(?![A-Za-z'])")


def gold_text(gold: str) -> str:
    r"""The answer in a gold entry, which may be a bare answer or a whole worked solution.

    **Raises:** ValueError for an empty gold: it is an error in the data, and grading every response
        as wrong would hide it.
    """
    if not gold.strip():
        raise ValueError(
            "the gold answer is empty: a row without a gold answer cannot be graded; remove it or "
            "fill it in"
        )
    boxed = last_boxed(gold) if boxes(gold) else None
    if boxed:
        return boxed
    head, mark, cut_off = gold.rpartition("boxed{")
    if mark and head.endswith("\\") and cut_off.strip():
        return balance_braces(cut_off)  # the data lost the box's closing brace
    hashed = last_hash(gold)
    if hashed:
        return hashed
    marked = last_marked(gold) if len(gold) > 60 else None
    return marked[0] if marked and marked[0] else gold.strip()


def choice_letter(answer: ExtractedAnswer) -> str | None:
    """The option that a multiple-choice answer names: "C" for "the answer is (C), since ...".

    None if it names no option or several.
    """
    text = key(answer.text)
    letter = _LETTER.fullmatch(text)
    if letter:
        return letter.group(1)
    plain = unwrap(tidy(answer.text))
    if _LETTERS.fullmatch(plain):
        return None  # several options
    start = _LETTER_START.match(plain)
    if start:
        return start.group(1)
    marked = _LETTER_MARKED.search(plain[:60]) if answer.kind == "marker" else None
    return marked.group(1) if marked else None


def _same_time(gold: re.Match[str], answer: re.Match[str]) -> bool:
    gold_half, half = (gold[3] or "").lower(), (answer[3] or "").lower()  # "a" (am), "p" (pm)
    return (
        int(gold[1]) == int(answer[1])
        and gold[2] == answer[2]
        and (gold_half == half or not gold_half or not half)
    )


def compare_plain(gold: str, answer: ExtractedAnswer) -> Verdict | None:
    """The verdict if both sides are plain strings or numbers, else None."""
    if key(gold) == key(answer.text) and key(gold):
        return "correct"
    gold_number, number = read_number(gold), read_number(answer.text)
    gold_time, time = _CLOCK.fullmatch(key(gold)), _CLOCK.fullmatch(key(answer.text))
    if gold_time and (time or number):  # a time is not a quotient: 3:15 is not 1/5
        return "correct" if time and _same_time(gold_time, time) else "wrong"
    if (
        gold_number
        and number
        and (gold_number.name is None or number.name is None or gold_number.name == number.name)
    ):
        if same_number(gold_number, number):
            return "correct"
        if gold_number.definite and number.definite:
            return "wrong"
    gold_based, based = read_based(gold), read_based(answer.text)
    if based is not None and (gold_based is not None or gold_number is not None):
        return "correct" if based in (gold_based, gold_number and gold_number.value) else "wrong"
    if len(key(gold)) == len(key(answer.text)) == 1 and (key(gold) + key(answer.text)).isalpha():
        return "wrong"
    option = _LETTER.fullmatch(key(gold))
    if option:
        chosen = choice_letter(answer)
        if chosen is not None:
            return "correct" if chosen == option.group(1) else "wrong"
    return None


def quick_verdict(gold: str, prediction: str, extractor: str = "auto") -> Verdict | None:
    """The verdict if it needs no computer algebra, else None.

    `hash` answers always get a verdict here, since they are exact strings. The modes of other
    projects never do.
    """
    wanted = gold_text(gold)
    if extractor in get_args(Mode):
        return None  # other projects' rules, which need sympy
    answer = extract(prediction, extractor)
    if answer is None or not key(answer.text):
        return "unparsable"
    if len(answer.text) > MAX_ANSWER:
        return "correct" if wanted == answer.text else "wrong"
    if answer.kind == "marker" and denied(answer.text) and not denied(wanted):
        return "wrong"
    verdict = compare_plain(wanted, answer)
    if verdict is None and answer.kind == "hash":
        return "wrong"
    return verdict
