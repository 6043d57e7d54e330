r"""MathArena's grading rule: the last box as a number, formula or unordered nested list.

Source: eth-sri/matharena, `parser.py`. Written from the rule, not from its code. Three things
differ:

- `plain.py` and Math-Verify's LaTeX parser read the formulas; upstream calls `sympify`, which runs
  its text as Python.
- Upstream's table of single answers corrected by hand is omitted.
- List members without a digit count.
"""

from __future__ import annotations

import re
from typing import Any

from erpd_core.refs import Verdict
from tasks.grading.extract import after_thinking, boxes
from tasks.grading.math_verify import parse_formula
from tasks.grading.normalize import unify
from tasks.grading.plain import parse_plain

CLOSE = 1e-10
"""Absolute difference below which two numbers are equal."""
_INTEGER = re.compile(r"\b\d{1,1000}\b")
_SIZES = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|large|Large|displaystyle)(?![a-zA-Z])|\\[;:,!]|\\[hv]line|\$"
)
_JOINED = re.compile(r"(?:\\text\s*\{\s*)?\b(?:and|or)\b(?:\s*\})?", re.IGNORECASE)


def boxed(response: str, listed: bool) -> str | None:
    """The last box; for a list of answers, all boxes of the last line with a box.

    Without a box, the last integer.
    """
    text = after_thinking(response)
    all_boxes = boxes(text)
    if not all_boxes:
        integers = _INTEGER.findall(text[-10_000:])
        return integers[-1] if integers else None
    if not listed:
        return all_boxes[-1][2]
    line = text.rfind("\n", 0, all_boxes[-1][0])
    return ",".join(content for start, _, content in all_boxes if start > line)


def spell(text: str, listed: bool) -> str:
    """Normalize an answer: round brackets, no units or text, only the part after the last "="."""
    text = re.sub(r"\\(?:boxed|fbox)\s*(?=\{)", "", unify(text))
    text = (
        _SIZES.sub("", text)
        .replace("\\{", "(")
        .replace("\\}", ")")
        .replace("[", "(")
        .replace("]", ")")
        .replace("\\quad", " ")
    )
    text = re.sub(r"\\(?:sqrt)\((\d+)\)\{", r"\\sqrt[\1]{", text)  # a root's index is not a list
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
    """Whether the last character closes the first bracket."""
    depth = 0
    for position, mark in enumerate(text):
        depth += (mark == "(") - (mark == ")")
        if depth == 0:
            return position == len(text) - 1
    return False


def _split(text: str) -> list[str]:
    """Split at the commas outside brackets."""
    members, depth, start = [], 0, 0
    for position, mark in enumerate(text):
        depth += (mark in "({") - (mark in ")}")
        if mark == "," and depth == 0:
            members.append(text[start:position])
            start = position + 1
    return [member.strip() for member in (*members, text[start:]) if member.strip()]


def read(text: str, depth: int = 0) -> Any | None:
    """Parse into a sympy expression or a nested list of them; None if any member cannot be read."""
    members = _split(text)
    if len(members) != 1:
        inner = [read(member, depth + 1) for member in members] if members and depth < 50 else []
        return inner if inner and all(value is not None for value in inner) else None
    if members[0].startswith("(") and _closes(members[0]) and len(_split(members[0][1:-1])) > 1:
        return read(members[0][1:-1], depth + 1)
    return _formula(members[0])


def _formula(text: str) -> Any | None:
    from sympy import Basic

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
    return next((parsed for parsed in parse_formula(text) if isinstance(parsed, Basic)), None)


def same(gold: Any, said: Any) -> bool:
    """Whether two values are equal within 1e-10 or under sympy; lists match in any order."""
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
        match = next((index for index, member in enumerate(left) if same(wanted, member)), None)
        if match is None:
            return False
        left.pop(match)
    return True


def grade_matharena(gold: str, response: str) -> Verdict:
    """Grade with MathArena's rule; `unparsable` without a readable box or integer."""
    listed = "," in gold
    answer = boxed(response, listed)
    if not answer:
        return "unparsable"
    wanted, given = read(spell(gold, listed)), read(spell(answer, listed))
    if given is None:
        return "unparsable"
    return "correct" if wanted is not None and same(wanted, given) else "wrong"
