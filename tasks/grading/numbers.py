r"""Reads plain numbers exactly, with their units, without sympy.

Numbers are integers, decimals, fractions, percentages, amounts of money and degrees.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from tasks.grading.normalize import tidy

MAX_CHARS = 1000
DOUBLE = Fraction(1, 10**12)
"""Largest relative difference at which a decimal equals an exact value (double precision).

So 0.0833333333333333 equals 1/12, but 0.3333333333 does not equal 1/3.
"""

_DECIMAL = r"(?:\d{1,3}(?:,\s?\d{3})+(?:\.\d+)?|\d{1,3}(?: \d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
_POWER = r"(?:[eE][+-]?\d{1,2})?"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?P<money>\\?\$|[€£¥])?\s*(?P<sign2>-?)"
    rf"(?:\\frac\{{\s*(?P<tn>-?{_DECIMAL})\s*\}}\{{\s*(?P<td>{_DECIMAL})\s*\}}"
    rf"|\(?(?P<n>{_DECIMAL}{_POWER})\)?(?:\s*/\s*\(?(?P<d>{_DECIMAL})\)?)?)"
    r"(?:\s*(?:\\times|\\cdot|\*)\s*10\s*(?:\^|\*\*)\s*\{?\s*(?P<tens>[+-]?\d{1,2})\s*\}?)?"
    r"(?:\s*(?:\\(?:text|mathrm)\s*\{\s*)?(?P<many>thousand|million|billion|trillion)\b\s*\}?)?"
    r"(?P<gap>\s*)(?P<percent>%|\\text\s*\{\s*%\s*\}|(?:per\s?cent|percent)\b)?(?P<degree>°|\s*\bdegrees?\b)?(?P<rest>.*)",
    re.DOTALL,
)
_MIXED = re.compile(
    r"([+-]?)\s*(\d{1,9})(?:\s+(\d{1,9})\s*/\s*(\d{1,9})|\s*\\frac\{\s*(\d{1,9})\s*\}\{\s*(\d{1,9})\s*\})"
)
_REPEATING = re.compile(
    r"([+-]?)(\d{0,20})\.(\d{0,40})(?:\\overline\s*\{\s*(\d{1,40})\s*\}|\\dot\s*\{?(\d)\}?)"
)
_MANY = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_COMMA_DECIMAL = re.compile(r"([+-]?\d+),(\d{1,2}|\d{4,})")
_UNIT_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm)?|mathrm|mbox|rm|operatorname)\s*\{\s*([^{}\d]*?)\s*\}\s*(?:\^\s*\{?\s*([23])\s*\}?)?"
)
_UNIT_WORDS = re.compile(
    r"\s*([A-Za-z][A-Za-z]*(?:[ /.-][A-Za-z]+)*)\.?\s*(?:\^\s*\{?\s*([23])\s*\}?)?"
)
_UPRIGHT = re.compile(r"^\\(?:text|mathrm)\s*\{\s*(\w+)\s*\}")
_BASED = re.compile(r"([0-9A-Za-z]+)_\{?(?:\\text\{)?(\d{1,2})\}{0,2}")
_NAME = re.compile(r"([A-Za-z](?:_\{?\w{1,3}\}?)?|\\[a-z]+)\s*=\s*(?=[^=])")
_NOT_UNITS = frozenset(
    [
        "and",
        "or",
        "to",
        "if",
        "when",
        "where",
        "mod",
        "pi",
        "sqrt",
        "sin",
        "cos",
        "tan",
        "log",
        "ln",
        "exp",
        "for",
        "is",
        "not",
        "choose",
        "with",
        "times",
        "plus",
        "minus",
        "over",
        "in",
        "except",
        "i",
        "than",
        "at",
    ]
)
_UNITS = {
    "cm": "cm centimeter centimetre", "mm": "mm millimeter millimetre",
    "km": "km kilometer kilometre", "m": "m meter metre", "in": "inch inches", "ft": "ft foot feet",
    "mi": "mile", "yd": "yd yard", "g": "g gram", "kg": "kg kilogram", "s": "s sec second",
    "min": "min minute", "h": "h hr hour", "day": "day", "week": "week", "year": "year yr",
    "l": "l liter litre", "ml": "ml milliliter", "$": "dollar usd buck", "cent": "cent",
    "mi/h": "mph", "km/h": "kmh kph", "°": "degree deg",
}  # fmt: skip
_CANONICAL = {
    spelling: unit for unit, spellings in _UNITS.items() for spelling in spellings.split()
}


@dataclass(frozen=True)
class Number:
    """A plain number as written. Example: `Number(Fraction(28), percent=True)` for "28 %"."""

    value: Fraction
    percent: bool = False
    decimal: bool = False
    unit: str | None = None
    """Canonical unit with its power ("cm2"), or None if there is no known unit."""
    name: str | None = None
    """Variable to which the number is assigned, as in "x = 3"."""
    definite: bool = True
    """False if the text has another reading ("1,22" may be a list)."""


def _plain(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").removesuffix("."))


def _unit(rest: str, spaced: bool) -> tuple[bool, str | None]:
    """Read `rest`, the text after a number, as (whether it is only a unit, canonical unit).

    The canonical unit is None if unknown. One or two letters are a unit only if known and after a
    space or with a power: in "5m", m may be a variable.
    """
    if not rest.strip():
        return True, None
    marked = _UNIT_TEXT.fullmatch(rest.strip())
    match = marked or _UNIT_WORDS.fullmatch(rest)
    if match is None:
        return False, None
    words = match.group(1).lower().replace(".", " ").replace("/", " ").replace("-", " ").split()
    if any(word in _NOT_UNITS for word in words):
        return False, None
    if not marked and len(match.group(1)) < 3:
        known = match.group(1).lower() in _CANONICAL and (spaced or bool(match.group(2)))
        if not known:
            return False, None
    power = match.group(2) or (
        "2" if {"square", "sq"} & set(words) else "3" if {"cubic", "cubed"} & set(words) else ""
    )
    if "squared" in words:
        power = "2"
    nouns = [word for word in words if word not in {"square", "squared", "sq", "cubic", "cubed"}]
    known_units = [
        _CANONICAL.get(noun) or _CANONICAL.get(noun.rstrip("s")) for noun in nouns if noun != "per"
    ]
    return True, "/".join(unit for unit in known_units if unit) + power if known_units and all(
        known_units
    ) else None


def _mixed(text: str) -> Fraction | None:
    r"""Read a mixed number: `2 3/4` and `2\frac{3}{4}` are 11/4.

    The fraction must be proper.
    """
    match = _MIXED.fullmatch(text)
    if match is None:
        return None
    sign, whole, *parts = match.groups()
    top, bottom = (int(part) for part in parts if part)
    return (
        (int(whole) + Fraction(top, bottom)) * (-1 if sign == "-" else 1)
        if 0 < top < bottom
        else None
    )


def _repeating(text: str) -> Fraction | None:
    r"""Read a repeating decimal: `0.1\overline{6}` is 1/6."""
    match = _REPEATING.fullmatch(text)
    if match is None:
        return None
    sign, whole, fixed, *periods = match.groups()
    period = next(part for part in periods if part)
    value = Fraction(
        int(whole + fixed or "0") + Fraction(int(period), 10 ** len(period) - 1), 10 ** len(fixed)
    )
    return -value if sign == "-" else value


def read_number(text: str) -> Number | None:
    r"""Read `text` as one plain number; None if it is not one.

    **Example:** `read_number(r"\\$1{,}000.99")` has value 100099/100.
    """
    if len(text) > MAX_CHARS:
        return None
    text = tidy(text)
    inner = re.fullmatch(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", text)
    text = tidy(inner.group(1)) if inner else text
    name = None
    assigned = _NAME.match(text)
    if assigned:
        name, text = assigned.group(1), text[assigned.end() :]
    comma = _COMMA_DECIMAL.fullmatch(text)
    if comma:
        return Number(
            Fraction(f"{comma.group(1)}.{comma.group(2)}"), decimal=True, name=name, definite=False
        )
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1 and "," not in text:
        text = text[1:-1].strip()
    compound = _mixed(text) or _repeating(text)
    if compound is not None:
        return Number(compound, name=name)
    match = _NUMBER.fullmatch(text)
    if match is None or (match["sign"] and match["sign2"]):
        return None
    is_unit, unit = _unit(match["rest"], bool(match["gap"] or match["rest"][:1].isspace()))
    if not is_unit or (match["percent"] and unit):
        return None
    top, bottom = match["tn"] or match["n"], match["td"] or match["d"]
    below = _plain(bottom) if bottom else Fraction(1)
    if below == 0:
        return None
    value = _plain(top) / below * (-1 if "-" in (match["sign"], match["sign2"]) else 1)
    value *= Fraction(10) ** int(match["tens"] or 0) * _MANY.get(match["many"], 1)
    unit = "$" if match["money"] and not unit else "°" if match["degree"] and not unit else unit
    ambiguous = bool(re.search(r"\d, \d", text))
    decimal = "." in top or "e" in top.lower() or "." in (bottom or "")
    return Number(value, bool(match["percent"]), decimal, unit, name, definite=not ambiguous)


def same_number(gold: Number, prediction: Number) -> bool:
    """Whether two numbers are equal in value.

    N % equals both N and N/100 (Math-Verify's convention). Two different known units are never
    equal.
    """
    if gold.unit and prediction.unit and gold.unit != prediction.unit:
        return False
    if (gold.percent and prediction.unit) or (prediction.percent and gold.unit):
        return False
    if _close(gold.value, prediction.value, gold.decimal or prediction.decimal):
        return True
    if gold.percent == prediction.percent:
        return False
    percent, plain = (gold, prediction) if gold.percent else (prediction, gold)
    return _close(percent.value / 100, plain.value, gold.decimal or prediction.decimal)


def read_based(text: str) -> Fraction | None:
    """Read an integer with its base, as in "1112112_3"; None if it is not one.

    For example, every digit must be less than the base.
    """
    match = _BASED.fullmatch(_UPRIGHT.sub(r"\1", tidy(text)).replace(" ", ""))
    if match is None or not 2 <= int(match.group(2)) <= 36 or len(match.group(1)) > MAX_CHARS:
        return None
    try:
        return Fraction(int(match.group(1), int(match.group(2))))
    except ValueError:
        return None


def _close(a: Fraction, b: Fraction, decimal: bool) -> bool:
    return a == b or (decimal and abs(a - b) <= DOUBLE * max(abs(a), abs(b)))
