r"""Answers with structure that Math-Verify reads loosely: prose, conditions ("for some $a >
0$"), and grouped assignments.
"""

from __future__ import annotations

import re

from tasks.grading.normalise import key, tidy, words_key
from tasks.grading.numbers import read_number, same_number

_COMMAND = re.compile(
    r"\\(?:begin|end)\s*\{\w+\*?\}|\\(?:text|textbf|textit|mathrm|mbox|operatorname)\s*\{|\\[A-Za-z]+"
)
_WORD = re.compile(r"[^\W\d_]{2,}")
_STARTS = re.compile(r"[\W_]*[^\W\d_]{3,}")
_MATHS = frozenset(
    [
        "and",
        "or",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "log",
        "ln",
        "exp",
        "sqrt",
        "pi",
        "mod",
        "max",
        "min",
        "gcd",
        "lcm",
        "lim",
        "det",
        "rank",
        "arcsin",
        "arccos",
        "arctan",
        "frac",
        "infty",
        "deg",
        "in",
        "to",
    ]
)
_CLAUSE = re.compile(
    r"[\s,;$(]*(?:\\(?:text|mbox|textrm)\s*\{[\s,(]*)?"
    r"\b(?:for\s+(?:some|all|any|every|each|nonnegative|positive|real|integer)|where|with|such "
    r"that)\b.*",
    re.DOTALL | re.IGNORECASE,
)
_NEGATIONS = frozenset(
    [
        "no",
        "not",
        "none",
        "never",
        "neither",
        "cannot",
        "except",
        "unless",
        "more",
        "less",
        "fewer",
        "greater",
        "least",
        "most",
        "impossible",
        "undefined",
    ]
)
_DENIED = re.compile(
    r"\W*(?:(?:definitely|certainly|probably|strictly)\s+)?"
    r"(?:not|never|neither|unlikely|no\s+longer|between|at\s+(?:least|most)|(?:more|less|fewer|greater|larger|smaller|bigger)\s+than)\b",
    re.IGNORECASE,
)
_BUILDER = re.compile(
    r"\\\{\s*([a-z])(?:\s*\\in\s*(?:\\mathbb\s*\{?\s*R\s*\}?|\\R))?\s*(?::|\\mid|\||\\vert|\\colon)\s*(.+?)\s*\\\}"
)
_RELATION = re.compile(r"[<>=]|\\(?:le|ge|lt|gt|leq|geq|ne|neq)(?![a-zA-Z])")
_PLUS_MINUS = re.compile(r"\\pm(?![a-zA-Z])")
_MODULUS = re.compile(
    r"\s*\(?\s*(?:\\[pb]?mod|\\text\s*\{\s*\(?mod\s*\}|\bmod)\s*\{?\s*([\w^{}]+?)\s*\}?\s*\)?\s*$"
)
_JOINT = re.compile(
    r"\\text\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}|\\q?quad(?![a-zA-Z])|;|,|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|(?<=[\d)}])or(?=[A-Z(])|\n"
)
_ASSIGNED = re.compile(r"\s*([A-Za-z](?:_\{?\w{1,3}\}?)?)(?:\([a-z]\))?\s*=\s*([^=]+)")
_NOT_UNITS = (
    _MATHS
    | _NEGATIONS
    | frozenset(
        [
            "even",
            "odd",
            "prime",
            "all",
            "any",
            "some",
            "for",
            "where",
            "when",
            "is",
            "are",
            "if",
            "real",
            "integer",
            "positive",
        ]
    )
)
_UNIT_END = re.compile(
    r"(?:\s|\\[ ,;:])*(?:\\(?:text|mathrm|mbox|textbf|textit)\s*\{([^{}\d]*[a-z][^{}\d]*)\}"
    r"|(?<=[\s}])((?:square |cubic |sq )?(?:[ckm]?m|inch|inches|feet|ft|miles?"
    r"|units?|degrees?|dollars?|hours?|minutes?|seconds?|days?|[ck]?meters?|kg|grams?)))\s*(?:\^\s*\{?\s*[23]\s*\}?)?\s*$"
)
_MATRIX = re.compile(r"\\begin\{matrix\}(.*?)\\end\{matrix\}", re.DOTALL)


def words(text: str) -> list[str]:
    r"""Words outside LaTeX commands and not maths names: `odd $n$` has one, `2\sin x` none."""
    plain = _COMMAND.sub(" ", text)
    return [word for word in _WORD.findall(plain) if word.lower() not in _MATHS]


def is_prose(text: str) -> bool:
    r"""Whether an answer says something in words, so that no number in it can stand for the
    whole ("All powers of 2", "odd $n$").
    """
    found = words(text)
    starts = _STARTS.match(_COMMAND.sub(" ", tidy(text)))
    return bool(found) and (
        len([word for word in found if len(word) > 2]) >= 2
        or bool(starts and words(starts.group()))
    )


def list_items(text: str) -> list[str] | None:
    """The items of a plain list ("12 and 13", "1, 2 or 3"); None for one item or for anything
    nested.
    """
    if "=" in text or (";" in text and "," in text) or read_number(text) is not None:
        # assignments and lists of lists have groups that a flat comparison would lose; "1,234" is a
        # number
        return None
    items = [
        item.strip()
        for item in _JOINT.split(tidy_keep_joints(balance_dollars(text).replace("$", " ")))
        if item.strip()
    ]
    balanced = all(
        item.count(start) == item.count(end) for item in items for start, end in ("()", "[]", "{}")
    )
    return items if balanced and 2 <= len(items) <= 30 else None


def same_list(gold: str, prediction: str) -> bool:
    """Equal plain lists in any order, item by item as exact strings or numbers."""
    left, right = list_items(gold), list_items(prediction)
    if left is None or right is None or len(left) != len(right):
        return False
    for item in left:
        number = read_number(item)
        for other in right:
            other_number = read_number(other)
            if key(item) == key(other) or (
                number
                and other_number
                and number.name == other_number.name
                and same_number(number, other_number)
            ):
                right.remove(other)
                break
        else:
            return False
    return True


def negates(text: str) -> bool:
    """Whether an answer in words says no, or bounds a value instead of giving it."""
    return any(word.lower() in _NEGATIONS for word in words(text))


def is_compound(text: str) -> bool:
    """A definition by cases over several lines: no single formula in it stands for the whole."""
    return (
        len(text) <= 200
        and "\\begin" not in text
        and "$" in text
        and sum(bool(line.strip()) for line in text.splitlines()) > 1
    )


def evades(text: str) -> bool:
    """Whether a boxed answer is a sentence that does not state a value ("x is 5" and "x = 5"
    do).
    """
    bare = strip_units(text)
    return is_compound(text) or (
        is_prose(bare)
        and "=" not in bare
        and not {"is", "are"} & {word.lower() for word in words(bare)}
    )


def denied(text: str) -> bool:
    """Whether what follows "the answer is" takes the value back, or only bounds it: "not 5", "at
    least 5".
    """
    return bool(_DENIED.match(text))


def drop_builder(text: str) -> str:
    r"""The condition of a set of numbers: `\{x : x > 2\}` becomes `x > 2`."""
    found = _BUILDER.fullmatch(tidy(text))
    return found.group(2) if found and _RELATION.search(found.group(2)) else text


def spread(text: str) -> str:
    r"""Both values of a formula with one plus-minus: `\frac{-1 \pm a}{2}` becomes `\frac{-1 +
    a}{2}, \frac{-1 - a}{2}`.
    """
    if len(_PLUS_MINUS.findall(text)) != 1 or "," in text:
        return text
    return ", ".join(_PLUS_MINUS.sub(sign, text) for sign in ("+", "-"))


def split_modulus(text: str) -> tuple[str, str]:
    r"""(residue, modulus): `x \equiv 3 \pmod{5}` becomes (`x = 3`, `5`); the modulus is empty if
    there is none.
    """
    plain = tidy(text)
    found = _MODULUS.search(plain)
    if found is None or not plain[: found.start()].strip():
        return text, ""
    return plain[: found.start()].replace("\\equiv", "="), found.group(1)


def split_clause(text: str) -> tuple[str, str]:
    """(answer, condition): `x^2 + c$ for some $c > 0` becomes (`x^2 + c`, `for some c > 0`); the
    condition is empty if there is none.
    """
    found = _CLAUSE.search(text)
    if found is None or not text[: found.start()].strip(" $"):
        return text, ""
    return text[: found.start()], words_key(found.group())


def balance_dollars(text: str) -> str:
    """Drop the dollar signs of a text cut out of a formula, where they no longer pair."""
    return text.replace("$", " ") if text.count("$") % 2 else text


def assignment_groups(text: str) -> list[dict[str, str]] | None:
    """`p=5,q=2;p=7,q=2` as [{p: 5, q: 2}, {p: 7, q: 2}]; else None. A new group starts where a
    name repeats.
    """
    groups: list[dict[str, str]] = [{}]
    for item in _JOINT.split(tidy_keep_joints(text)):
        if not item.strip():
            continue
        found = _ASSIGNED.fullmatch(item)
        if found is None:
            return None
        if found.group(1) in groups[-1]:
            groups.append({})
        groups[-1][found.group(1)] = key(found.group(2))
    return groups if groups[0] else None


def tidy_keep_joints(text: str) -> str:
    r"""`tidy`, but `\quad` stays a separator."""
    return tidy(re.sub(r"\\q?quad(?![a-zA-Z])", ";", text))


def same_groups(gold: str, prediction: str) -> bool:
    """Equal sets of solutions, each a set of assignments, as strings."""
    left, right = assignment_groups(gold), assignment_groups(prediction)
    if left is None or right is None or len(left) != len(right):
        return False
    return {frozenset(group.items()) for group in left} == {
        frozenset(group.items()) for group in right
    }


def strip_units(text: str) -> str:
    r"""Take off a closing unit: `\frac{1}{3}\text{ cm}^2`, `3\sqrt{2} cm`. Never one bare
    letter: in `2-2m` it is a variable.
    """
    found = _UNIT_END.search(text)
    if found is None or not text[: found.start()].strip():
        return text
    content = found.group(1) or found.group(2)
    if any(word.lower() in _NOT_UNITS for word in re.findall(r"[A-Za-z]+", content)):
        return text
    return text[: found.start()]


def unstack(text: str) -> str:
    r"""A formula that a model typed one token per row of a bare `matrix` (a known degeneration),
    on one line again.
    """
    if "\\begin{matrix}" not in text:
        return text
    joined = _MATRIX.sub(lambda m: m.group(1).replace("\\\\", " "), text)
    return re.sub(
        r"\\[,;:!]|\^\s*\{\s*\}", lambda m: "^" if m.group()[0] == "^" else " ", joined
    ).strip()
