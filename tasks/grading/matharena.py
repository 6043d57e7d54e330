r"""MathArena's rule (eth-sri/matharena, `parser.py`): the last box as a number, formula or
unordered nested list.

Written from the rule, not from its code. What differs: formulas are read by `plain.py` and
Math-Verify's LaTeX parser, where upstream calls `sympify`, which runs its text as Python; its table
of single answers corrected by hand is not here; list members without a digit count.
"""

from __future__ import annotations

import re
from typing import Any

from erpd_core.refs import Verdict
from tasks.grading.extract import after_thinking, boxes
from tasks.grading.normalise import unify
from tasks.grading.plain import parse_plain

CLOSE = 1e-10
_INTEGER = re.compile(r"\b\d{1,1000}\b")
_SIZES = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|large|Large|displaystyle)(?![a-zA-Z])|\\[;:,!]|\\[hv]line|\$"
)
_JOINED = re.compile(r"(?:\\text\s*\{\s*)?\b(?:and|or)\b(?:\s*\})?", re.IGNORECASE)


def boxed(response: str, listed: bool) -> str | None:
    """The last box, or for a list of answers all boxes of the last line that has one; without a
    box, the last integer.
    """
    text = after_thinking(response)
    found = boxes(text)
    if not found:
        integers = _INTEGER.findall(text[-10_000:])
        return integers[-1] if integers else None
    if not listed:
        return found[-1][2]
    line = text.rfind("\n", 0, found[-1][0])
    return ",".join(content for start, _, content in found if start > line)


def spell(text: str, listed: bool) -> str:
    """One spelling: every bracket is round, units and text are gone, only what follows the last
    "=" is left.
    """
    text = re.sub(r"\\(?:boxed|fbox)\s*(?=\{)", "", unify(text))
    text = (
        _SIZES.sub("", text)
        .replace("\\{", "(")
        .replace("\\}", ")")
        .replace("[", "(")
        .replace("]", ")")
        .replace("\\quad", " ")
    )
    text = re.sub(r"\\(?:sqrt)\((\d+)\)\{", r"\\sqrt[\1]{", text)  # a root's index is no bracket
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?", " ", text).strip().removesuffix(".")
    if listed:
        text = re.sub(r",\s*,", ",", _JOINED.sub(",", text).replace(";", ","))
    else:
        text = re.sub(r"(\d+)(?:\{,\}|,)(\d+)", r"\1\2", text)
    text = re.sub(r"\\mathrm\{(.*?)\}", r" \1 ", re.sub(r"\\text\{.*?\}", "", text))
    text = text.rpartition("=")[2]
    if listed:
        text = text.rpartition("\\in ")[2]
    text = text.partition("\\approx")[0].strip()
    while text.startswith("(") and text.endswith(")") and _closes(text):
        text = text[1:-1].strip()
    return text


def _closes(text: str) -> bool:
    """Whether the first bracket closes with the last."""
    depth = 0
    for position, mark in enumerate(text):
        depth += (mark == "(") - (mark == ")")
        if depth == 0:
            return position == len(text) - 1
    return False


def _split(text: str) -> list[str]:
    """Members between the commas that stand in no bracket."""
    members, depth, start = [], 0, 0
    for position, mark in enumerate(text):
        depth += (mark in "({") - (mark in ")}")
        if mark == "," and depth == 0:
            members.append(text[start:position])
            start = position + 1
    return [member.strip() for member in (*members, text[start:]) if member.strip()]


def read(text: str, depth: int = 0) -> Any | None:
    """A sympy expression, or a nested list of them; None where a member cannot be read."""
    members = _split(text)
    if len(members) != 1:
        inner = [read(member, depth + 1) for member in members] if members and depth < 50 else []
        return inner if inner and all(each is not None for each in inner) else None
    if members[0].startswith("(") and _closes(members[0]) and len(_split(members[0][1:-1])) > 1:
        return read(members[0][1:-1], depth + 1)
    return _formula(members[0])


def _formula(text: str) -> Any | None:
    from sympy import Basic

    from tasks.grading.math_verify import parse_formula

    for _ in range(20):
        before = text
        text = re.sub(r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))", text)
        text = re.sub(r"\\binom\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"binomial(\1,\2)", text)
        text = re.sub(r"\\sqrt\s*\[(\d+)\]\s*\{([^{}]*)\}", r"((\2)^(1/\1))", text)
        text = re.sub(r"\\sqrt\s*\{([^{}]*)\}", r"sqrt(\1)", text)
        text = re.sub(r"\^\s*\{([^{}]*)\}", r"^(\1)", text)
        if text == before:
            break
    plain = (
        text.replace("\\cdot", "*")
        .replace("\\times", "*")
        .replace("\\pi", " pi ")
        .replace("\\", " \\ ")
    )
    value = parse_plain(plain)
    if value is not None:
        return value
    return next((each for each in parse_formula(text) if isinstance(each, Basic)), None)


def same(gold: Any, said: Any) -> bool:
    """Equal within 1e-10 or under sympy; lists in any order, member by member."""
    if isinstance(gold, list) != isinstance(said, list):
        return False
    if not isinstance(gold, list):
        if gold.is_number and said.is_number and gold.is_comparable and said.is_comparable:
            return bool(abs(gold - said).evalf(30) < CLOSE)
        return bool(gold.equals(said)) if hasattr(gold, "equals") else bool(gold == said)
    left = list(said)
    if len(gold) != len(left):
        return False
    for wanted in gold:
        found = next((index for index, each in enumerate(left) if same(wanted, each)), None)
        if found is None:
            return False
        left.pop(found)
    return True


def grade_matharena(gold: str, response: str) -> Verdict:
    """The verdict of MathArena's rule: `unparsable` without a box and without any integer."""
    listed = "," in gold
    said = boxed(response, listed)
    if not said:
        return "unparsable"
    wanted, given = read(spell(gold, listed)), read(spell(said, listed))
    if given is None:
        return "unparsable"
    return "correct" if wanted is not None and same(wanted, given) else "wrong"
