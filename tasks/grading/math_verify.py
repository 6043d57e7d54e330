"""Parses and compares formulas with Math-Verify 0.9 (huggingface/Math-Verify)."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from tasks.grading.normalize import balance_braces, drop_approximation, strip_delimiters, unify
from tasks.grading.structure import strip_units

DIGITS = 12
"""Decimal places to which numbers are rounded before comparison.

With Math-Verify's default of 6, 0.000001 equals 0 and 0.3333333333 equals 1/3.
"""

_TRIG_DEGREES = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc)(?:\^\{?\d\}?)?)\s*(?:\\left)?[({]?\s*(\d{1,6}(?:\.\d{1,6})?)\s*\^\s*\{?\s*\\circ\s*\}?\s*(?:\\right)?[)}]?"
)


@lru_cache(maxsize=4096)
def _formula_cache(text: str) -> tuple[Any, ...]:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # units=False: Math-Verify would read the variable m of "2-2m" as meters. `strip_units` has
    # already removed real units.
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
    r"""Parse `text` as one LaTeX formula; several formulas ("$1$ and $2$") are one list."""
    quiet()
    text = balance_braces(drop_approximation(unify(strip_delimiters(text))))
    if "$" in text or "\\(" in text:
        formulas = search(text)
        if any(not isinstance(formula, str) for formula in formulas):
            return formulas
        text = text.replace("$", " ").replace(r"\(", " ").replace(r"\)", " ")
    return list(_formula_cache(f"$\\boxed{{{_latex(strip_units(text))}}}$"))


def _latex(text: str) -> str:
    """Convert plain-text notation to LaTeX: `sqrt(2)`, `**`, `pi`, `10%`."""
    text = re.sub(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\\A-Za-z])(pi|infty|sin|cos|tan|ln|log)(?![A-Za-z])", r"\\\1", text)
    text = _TRIG_DEGREES.sub(lambda m: rf"{m[1]}\left(\frac{{{m[2]} \pi}}{{180}}\right)", text)
    return re.sub(r"(?<!\\)%", r"\\%", text.replace("**", "^"))


def search(text: str) -> list[Any]:
    """Find the answer in running text with Math-Verify's search."""
    from math_verify import parse

    quiet()
    return parse(unify(text), parsing_timeout=None)


def verify(golds: list[Any], predictions: list[Any]) -> bool:
    """Whether parsed gold and predicted formulas are equal by Math-Verify's rule."""
    import math_verify

    if math_verify.verify(golds, predictions, float_rounding=DIGITS, timeout_seconds=None):
        return True
    reread = [_read_further(golds), _read_further(predictions)]
    return reread != [golds, predictions] and bool(
        math_verify.verify(*reread, float_rounding=DIGITS, timeout_seconds=None)
    )


def _read_further(parsed: list[Any]) -> list[Any]:
    """Replace i by the imaginary unit and expand logarithms, with letters taken as positive.

    Math-Verify reads i as a variable.
    """
    from sympy import Basic, I, expand_log, log

    formulas = []
    for formula in parsed:
        if isinstance(formula, Basic):
            formula = formula.subs(
                {letter: I for letter in formula.free_symbols if letter.name == "i"}
            )
            formula = (
                expand_log(formula, force=True)
                if formula.has(log) and formula.free_symbols
                else formula
            )
        formulas.append(formula)
    return formulas


@lru_cache(maxsize=1)
def quiet() -> None:
    """Silence Math-Verify's warnings that its deadlines are off, which is intended."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    logging.getLogger("latex2sympy2_extended").setLevel(logging.ERROR)
