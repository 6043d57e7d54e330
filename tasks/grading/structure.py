r"""Compares answers with structure that Math-Verify reads too loosely.

These are prose, lists, conditions ("for some $a > 0$") and groups of assignments.
"""

from __future__ import annotations

import re

from tasks.grading.normalize import key, tidy, words_key
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
    r"""Words that are not LaTeX commands or math names: one in `odd $n$`, none in `2\sin x`."""
    plain = _COMMAND.sub(" ", text)
    return [word for word in _WORD.findall(plain) if word.lower() not in _MATHS]


def is_prose(text: str) -> bool:
    r"""Whether an answer is a statement in words ("All powers of 2", "odd $n$").

    No number in it can be compared in place of the whole answer.
    """
    prose = words(text)
    starts = _STARTS.match(_COMMAND.sub(" ", tidy(text)))
    return bool(prose) and (
        len([word for word in prose if len(word) > 2]) >= 2
        or bool(starts and words(starts.group()))
    )


def list_items(text: str) -> list[str] | None:
    """Split a plain list ("12 and 13", "1, 2 or 3") into its items.

    None for a single item, more than 30 items, a nested list, assignments or a number.
    """
    if "=" in text or (";" in text and "," in text) or read_number(text) is not None:
        # A flat comparison would lose the groups of assignments and of lists of lists. "1,234" is
        # a number.
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
    """Whether both are plain lists with equal items in any order, as exact strings or numbers."""
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
    """Whether an answer in words denies or bounds a value instead of stating it."""
    return any(word.lower() in _NEGATIONS for word in words(text))


def is_compound(text: str) -> bool:
    """Whether an answer is a definition by cases over several lines.

    No single formula in it can be compared in place of the whole answer.
    """
    return (
        len(text) <= 200
        and "\\begin" not in text
        and "$" in text
        and sum(bool(line.strip()) for line in text.splitlines()) > 1
    )


def evades(text: str) -> bool:
    """Whether a boxed answer is a sentence that states no value; "x is 5" and "x = 5" state one."""
    bare = strip_units(text)
    return is_compound(text) or (
        is_prose(bare)
        and "=" not in bare
        and not {"is", "are"} & {word.lower() for word in words(bare)}
    )


def denied(text: str) -> bool:
    """Whether the text after "the answer is" denies or bounds a value: "not 5", "at least 5"."""
    return bool(_DENIED.match(text))


def drop_builder(text: str) -> str:
    r"""Reduce set-builder notation to its condition: `\{x : x > 2\}` becomes `x > 2`."""
    builder = _BUILDER.fullmatch(tidy(text))
    return builder.group(2) if builder and _RELATION.search(builder.group(2)) else text


def spread(text: str) -> str:
    r"""Write out both values of a formula with one plus-minus sign.

    **Example:** `\frac{-1 \pm a}{2}` becomes `\frac{-1 + a}{2}, \frac{-1 - a}{2}`.
    """
    if len(_PLUS_MINUS.findall(text)) != 1 or "," in text:
        return text
    return ", ".join(_PLUS_MINUS.sub(sign, text) for sign in ("+", "-"))


def split_modulus(text: str) -> tuple[str, str]:
    r"""Split into (residue, modulus): `x \equiv 3 \pmod{5}` becomes (`x = 3`, `5`).

    Without a modulus the second part is empty.
    """
    plain = tidy(text)
    modulus = _MODULUS.search(plain)
    if modulus is None or not plain[: modulus.start()].strip():
        return text, ""
    return plain[: modulus.start()].replace("\\equiv", "="), modulus.group(1)


def split_clause(text: str) -> tuple[str, str]:
    """Split into (answer, condition).

    **Example:** `x^2 + c$ for some $c > 0` becomes (`x^2 + c`, `for some c > 0`). Without a
    condition the second part is empty.
    """
    clause = _CLAUSE.search(text)
    if clause is None or not text[: clause.start()].strip(" $"):
        return text, ""
    return text[: clause.start()], words_key(clause.group())


def balance_dollars(text: str) -> str:
    """Replace all dollar signs by spaces if their number is odd, as in a cut formula."""
    return text.replace("$", " ") if text.count("$") % 2 else text


def assignment_groups(text: str) -> list[dict[str, str]] | None:
    """Parse assignments into groups: `p=5,q=2;p=7,q=2` gives [{p: 5, q: 2}, {p: 7, q: 2}].

    A new group starts where a name repeats. Other text gives None.
    """
    groups: list[dict[str, str]] = [{}]
    for item in _JOINT.split(tidy_keep_joints(text)):
        if not item.strip():
            continue
        assignment = _ASSIGNED.fullmatch(item)
        if assignment is None:
            return None
        if assignment.group(1) in groups[-1]:
            groups.append({})
        groups[-1][assignment.group(1)] = key(assignment.group(2))
    return groups if groups[0] else None


def tidy_keep_joints(text: str) -> str:
    r"""Like `tidy`, but `\quad` stays a separator."""
    return tidy(re.sub(r"\\q?quad(?![a-zA-Z])", ";", text))


def same_groups(gold: str, prediction: str) -> bool:
    """Whether both are the same set of solutions, each a set of assignments, as strings."""
    left, right = assignment_groups(gold), assignment_groups(prediction)
    if left is None or right is None or len(left) != len(right):
        return False
    return {frozenset(group.items()) for group in left} == {
        frozenset(group.items()) for group in right
    }


def strip_units(text: str) -> str:
    r"""Remove a unit at the end: `\frac{1}{3}\text{ cm}^2`, `3\sqrt{2} cm`.

    A letter right after a number stays: in `2-2m` it is a variable.
    """
    unit = _UNIT_END.search(text)
    if unit is None or not text[: unit.start()].strip():
        return text
    content = unit.group(1) or unit.group(2)
    if any(word.lower() in _NOT_UNITS for word in re.findall(r"[A-Za-z]+", content)):
        return text
    return text[: unit.start()]


def unstack(text: str) -> str:
    r"""Join the rows of a bare `matrix` into one line.

    Some models degenerate into writing a formula with one token per matrix row.
    """
    if "\\begin{matrix}" not in text:
        return text
    joined = _MATRIX.sub(lambda m: m.group(1).replace("\\\\", " "), text)
    return re.sub(
        r"\\[,;:!]|\^\s*\{\s*\}", lambda m: "^" if m.group()[0] == "^" else " ", joined
    ).strip()
