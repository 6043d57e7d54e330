r"""POLARIS's grading rule: the last box equals the gold as a normalized string or under sympy.

Source: ChenxinAn-fdu/POLARIS on verl; DeepScaleR has the same rule. Written from the rule, not from
its code. Two things differ:

- `plain.py` parses the formulas, since upstream's parser runs its text as Python.
- Compound numerators keep their brackets; upstream loses them (x+1/2 for \frac{x+1}{2}).
"""

from __future__ import annotations

import re

from erpd_core.refs import Verdict
from tasks.grading.extract import after_thinking, boxes
from tasks.grading.plain import parse_plain

_TEXT = re.compile(r"\\text\{(.+?)\}")
_FRAC_BARE = re.compile(r"\\frac(?:\{([^{}]*)\}|(\w))(?:\{([^{}]*)\}|(\w))")
_SQRT_BARE = re.compile(r"\\sqrt([^{\[])")
_UNIT = re.compile(
    r"(?:degree|cm|centimeter|meter|mile|second|minute|hour|day|week|month|year|foot|feet|inch|yard)"
    r"(?:es)?s? *(?:\^[0-9]+)?"
)
_MANY = {"trillion": "*10^12", "billion": "*10^9", "million": "*10^6"}
_SYMBOLS = {
    r"\pi": " pi ",
    r"\infty": " inf ",
    r"\cdot": "*",
    r"\times": "*",
    r"\cup": "U",
    "π": "pi",
    "∞": "inf",
    "·": "*",
    "×": "*",
}
_FRACTION = re.compile(r"-?[0-9]+.?/0*[1-9][0-9]*.?")
_COMMAS = re.compile(r"(\d),(\d{3})(?=$|\D)")
_RUNAWAY = re.compile(r"\^[({]|\^[0-9]+\^|\^[0-9][0-9]+")
_BRACKETS = "()[]"


def last_box(response: str) -> str | None:
    r"""Content of the last box after the thinking part.

    Unlike our own rule, it joins no adjacent boxes and accepts no box without braces.
    """
    all_boxes = boxes(after_thinking(response))
    return all_boxes[-1][2] if all_boxes else None


def mathd(text: str) -> str:
    """Normalize a MATH answer with Hendrycks' rules.

    Fractions, roots, units, percent and degrees get one form; spaces are removed.
    """
    text = text.strip()
    wrapped = _TEXT.fullmatch(text)
    text = wrapped.group(1).strip() if wrapped else text
    text = (
        text.replace("\n", "")
        .replace("\\!", "")
        .replace("\\\\", "\\")
        .replace("tfrac", "frac")
        .replace("dfrac", "frac")
    )
    text = re.sub(r"\\left|\\right|\^\{\\circ\}|\^\\circ|\\\$|\\?%", "", text)
    text = text.split("\\text{ ")[0].replace(" .", " 0.").replace("{.", "{0.")
    text = "0" + text if text.startswith(".") else text
    left, equals, right = text.partition("=")
    text = right if equals and "=" not in right and len(left) <= 2 else text
    text = _SQRT_BARE.sub(r"\\sqrt{\1}", text).replace(" ", "")
    text = _FRAC_BARE.sub(lambda m: rf"\frac{{{m[1] or m[2]}}}{{{m[3] or m[4]}}}", text)
    text = r"\frac{1}{2}" if text == "0.5" else text
    return (
        re.sub(r"(-?\d+)/(-?\d+)", r"\\frac{\1}{\2}", text)
        if re.fullmatch(r"-?\d+/-?\d+", text)
        else text
    )


def normal(text: str) -> str:
    """Normalize an answer for sympy.

    Units, money and percent signs are removed, LaTeX becomes plain text, whole numbers are written
    as integers, letters are lower case.
    """
    wrapped = _TEXT.fullmatch(text.strip())
    text = wrapped.group(1) if wrapped else text
    text = (
        text.replace("\\%", "")
        .replace("\\$", "")
        .replace("$", "")
        .replace("%", "")
        .replace(" or ", " , ")
        .replace(" and ", " , ")
    )
    for word, power in _MANY.items():
        text = text.replace(word, power)
    text = re.sub(r"\^ *\\circ", "", _UNIT.sub("", text))
    text = text[1:-1] if text.startswith("{") and text.endswith("}") else text
    text = _mixed(_plain_latex(re.sub(r",\\! *", "", text)))
    text = re.sub(r"[{} ]", "", text).lower()
    return _integer(text) or text


def _mixed(text: str) -> str:
    return re.sub(r"([0-9]) +([0-9])", r"\1+\2", re.sub(r"- *", "-", text))


def _plain_latex(text: str) -> str:
    text = re.sub(r"\\[dt]frac", r"\\frac", text).replace("\\frac", " \\frac")
    for _ in range(20):
        before = text
        text = re.sub(
            r"\\frac\{([^{}]*)\}\{([^{}]*)\}", lambda m: f"{_part(m[1])}/{_part(m[2])}", text
        )
        text = re.sub(r"(?:\\sqrt|√)\{([^{}]*)\}", r"sqrt(\1)", text)
        text = re.sub(r"\\(?:text|mathrm|mathbf|left|right|,|;|!| )(?![a-z])", "", text)
        if text == before:
            break
    for mark, plain in _SYMBOLS.items():
        text = text.replace(mark, plain)
    return text.strip()


def _part(text: str) -> str:
    return text if re.fullmatch(r"\s*-?\w+\s*", text) else f"({text})"


def _integer(text: str) -> str | None:
    while (shorter := _COMMAS.sub(r"\1\2", text)) != text:
        text = shorter
    try:
        value = float(text)
        return str(round(value)) if abs(value - round(value)) <= 1e-7 else None
    except (ValueError, OverflowError):
        return None


def _elements(text: str) -> list[str]:
    while (shorter := _COMMAS.sub(r"\1\2", text)) != text:
        text = shorter
    inner = text[1:-1]
    if (
        len(text) > 2
        and text[0] in _BRACKETS
        and text[-1] in _BRACKETS
        and not any(mark in inner for mark in _BRACKETS)
    ):
        return [element.strip() for element in inner.split(",")]
    return [text]


def _same_element(gold: str, answer: str) -> bool:
    if _FRACTION.fullmatch(gold) and _FRACTION.fullmatch(answer):
        return gold == answer  # an unreduced fraction is wrong
    if (_integer(gold) is None) != (_integer(answer) is None):
        return False  # an integer equals only an integer
    return _same_formula(gold, answer)


def _same_formula(gold: str, answer: str) -> bool:
    both = gold + answer
    if len(
        {mark for mark in both.replace("sqrt", "").replace("frac", "") if mark.isalpha()}
    ) > 2 or _RUNAWAY.search(both):
        return False
    left, right = parse_plain(gold), parse_plain(answer)
    if left is None or right is None:
        return False
    import sympy

    return bool(sympy.simplify(left - right) == 0)


def grade_polaris(gold: str, response: str) -> Verdict:
    """Grade with POLARIS's rule; `unparsable` without a box."""
    answer = last_box(response)
    if not answer:
        return "unparsable"
    if mathd(gold) == mathd(answer):
        return "correct"
    wanted, given = normal(gold), normal(answer)
    if wanted == given:
        return "correct"
    left, right = _elements(wanted), _elements(given)
    if (
        not given
        or len(left) != len(right)
        or (len(left) > 1 and (wanted[0], wanted[-1]) != (given[0], given[-1]))
    ):
        return "wrong"
    return "correct" if all(map(_same_element, left, right)) else "wrong"
