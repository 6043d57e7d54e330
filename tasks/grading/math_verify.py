"""Math-Verify 0.9 (huggingface/Math-Verify): formulas read, and compared with its rule."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from tasks.grading.normalise import balance_braces, drop_approximation, strip_delimiters, unify
from tasks.grading.structure import (
    strip_units,
)

DIGITS = 12
"""Decimals compared after rounding. Math-Verify's default of 6 takes 0.000001 for 0 and
0.3333333333 for 1/3.
"""


_TRIG_DEGREES = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc)(?:\^\{?\d\}?)?)\s*(?:\\left)?[({]?\s*(\d{1,6}(?:\.\d{1,6})?)\s*\^\s*\{?\s*\\circ\s*\}?\s*(?:\\right)?[)}]?"
)


@lru_cache(maxsize=4096)
def _formula_cache(text: str) -> tuple[Any, ...]:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # units=False: Math-Verify would read the variable m of "2-2m" as metres. `strip_units` has
    # taken off real ones.
    spelling = NormalizationConfig(
        basic_latex=True,
        units=False,
        malformed_operators=True,
        nits=True,
        boxed="all",
        equations=False,
    )
    config = LatexExtractionConfig(boxed_match_priority=0, normalization_config=spelling)
    return tuple(parse(text, [config], parsing_timeout=None))


def parse_formula(text: str) -> list[Any]:
    r"""`text` as one LaTeX formula; several formulas ("$1$ and $2$") are one list."""
    quiet()
    text = balance_braces(drop_approximation(unify(strip_delimiters(text))))
    if "$" in text or "\\(" in text:
        found = search(text)
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


def search(text: str) -> list[Any]:
    """Math-Verify's search for the answer in running text."""
    from math_verify import parse

    quiet()
    return parse(unify(text), parsing_timeout=None)


def verify(golds: list[Any], predictions: list[Any]) -> bool:
    import math_verify

    if math_verify.verify(golds, predictions, float_rounding=DIGITS, timeout_seconds=None):
        return True
    again = [_read_further(golds), _read_further(predictions)]
    return again != [golds, predictions] and bool(
        math_verify.verify(*again, float_rounding=DIGITS, timeout_seconds=None)
    )


def _read_further(parsed: list[Any]) -> list[Any]:
    """The formulas with i as the imaginary unit, which Math-Verify takes for a variable, and
    logarithms of positive letters expanded.
    """
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
