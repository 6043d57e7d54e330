"""Parses plain-text formulas ("3*sqrt(2)/4", "x^2+1") into sympy expressions.

It replaces sympy's `parse_expr` and `sympify`, which run their text as Python.

Grammar: sums of products of powers, implied multiplication ("2x", "3(x+1)"), factorials, and a few
functions by name. Any other text gives None.
"""

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d*)?|\.\d+)|([A-Za-z]+(?:_\w+)?)|(\*\*|[-+*/^()!,]))")
_FUNCTIONS = ("sqrt", "sin", "cos", "tan", "log", "ln", "exp", "binomial")
_NAMES = {"pi": "pi", "e": "E", "i": "I", "inf": "oo", "infty": "oo"}
MAX_TOKENS = 300
MAX_DIGITS = 400
"""Approximate limit on the digits of a power of plain numbers, so that 9^9^9 is never computed.

Also the limit on the characters of one token.
"""


class _Unreadable(Exception):
    """The text is not a formula of this grammar."""


class _Parser:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, wanted: str | None = None) -> str:
        token = self.peek()
        if not token or (wanted is not None and token != wanted):
            raise _Unreadable
        self.at += 1
        return token

    def sum(self) -> Any:
        total = self.product()
        while self.peek() in ("+", "-"):
            total = total + self.product() if self.take() == "+" else total - self.product()
        return total

    def product(self) -> Any:
        value = self.signed()
        while (token := self.peek()) and token not in ("+", "-", ")", ",", "^", "**", "!"):
            if token in ("*", "/"):
                self.take()
            right = self.signed()
            value = value / right if token == "/" else value * right
        return value

    def signed(self) -> Any:
        if self.peek() in ("+", "-"):
            return self.signed() if self.take() == "+" else -self.signed()
        base = self.atom()
        while self.peek() == "!":
            self.take()
            base = _factorial(base)
        if self.peek() in ("^", "**"):
            self.take()
            return _power(base, self.signed())
        return base

    def atom(self) -> Any:
        import sympy

        token = self.take()
        if token == "(":
            inner = self.sum()
            self.take(")")
            return inner
        if token[0].isdigit() or token[0] == ".":
            return sympy.Rational(token)
        if token.lower() in _FUNCTIONS and self.peek() == "(":
            return self.call(token.lower())
        if not token[0].isalpha():
            raise _Unreadable
        return getattr(sympy, _NAMES[token]) if token in _NAMES else sympy.Symbol(token)

    def call(self, name: str) -> Any:
        import sympy

        self.take("(")
        arguments = [self.sum()]
        while self.peek() == ",":
            self.take()
            arguments.append(self.sum())
        self.take(")")
        if len(arguments) != (2 if name == "binomial" else 1):
            raise _Unreadable
        return getattr(sympy, name)(*arguments)


def _factorial(base: Any) -> Any:
    import sympy

    if not (base.is_Symbol or (base.is_Integer and 0 <= base < 1000)):
        raise _Unreadable
    return sympy.factorial(base)


def _power(base: Any, exponent: Any) -> Any:
    if (
        base.is_Rational
        and exponent.is_Rational
        and abs(exponent) * max(1, abs(base.p).bit_length(), base.q.bit_length()) > 4 * MAX_DIGITS
    ):
        raise _Unreadable
    return base**exponent


def parse_plain(text: str) -> Any | None:
    """Parse `text` into a sympy expression; None if it is not a formula of the grammar.

    No part of the text is run as code.
    """
    tokens: list[str] = []
    at = 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(tokens) == MAX_TOKENS or len(match.group()) > MAX_DIGITS:
            return None
        tokens.append(match.group().strip())
        at = match.end()
    parser = _Parser(tokens)
    try:
        value = parser.sum()
        return value if parser.at == len(tokens) else None
    except (_Unreadable, ZeroDivisionError, RecursionError):
        return None
