r"""Gives one spelling to answers that differ only in typesetting.

It unifies Unicode, LaTeX spacing, fractions and delimiters. All functions map strings to strings.
"""

from __future__ import annotations

import re

_UNICODE = {
    "−": "-", "–": "-", "‐": "-", "‑": "-", "﹣": "-", "×": r"\times ", "⋅": r"\cdot ",
    "·": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "±": r"\pm ", "°": r"^\circ ", "º": r"^\circ ", "∅": r"\emptyset ", "½": r"\frac{1}{2}",
    "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "ℤ": r"\mathbb{Z}", "ℝ": r"\mathbb{R}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "，": ",", "。": ".", "；": ";", "：": ":",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "（": "(", "）": ")", "“": '"',
    "”": '"', "’": "'", "＝": "=", "＋": "+", "％": "%",
}  # fmt: skip
_TABLE = str.maketrans(_UNICODE | {chr(0xFF10 + digit): str(digit) for digit in range(10)})
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUPER_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\w+))")
_DROP = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|bigl?|bigr|Bigl?|Bigr|limits)(?![a-zA-Z])|\\!"
)
_SPACE = re.compile(r"(?:\\[,;:> ]|~|\\q?quad(?![a-zA-Z])|\s)+")
_DOUBLED = re.compile(
    r"\\\\(?=(?:boxed|fbox|text|[dt]?frac|sqrt|left|right|pi|l[et]|g[et]|n?eq|leq|geq|cdot|times|in|pm|infty|cup)(?![a-zA-Z]))"
)
_SYNONYMS = re.compile(
    r"\\varnothing(?![a-zA-Z])|\\text\{infinity\}|(\\\\)\[[\d.]+(?:pt|em|ex|mm)\]|\\(?:mathrm|text|operatorname)\{e\}(?=\s*\^)"
)
_FRAC = re.compile(r"\\[dtc]frac(?![a-z])")
_FRAC_SHORT = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|(\w))\s*(?:\{([^{}]*)\}|(\w))")
_SQRT_SHORT = re.compile(r"\\sqrt\s*(\d|[a-zA-Z](?![a-zA-Z]))")
_DEGREE = re.compile(r"\^\s*\{?\s*\\circ\s*\}?")
_WRAP = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|bm|boldsymbol|boxed|fbox)\s*\{([^{}]*)\}"
)
_SPACED_DIGITS = re.compile(r"(?<=\d)\s+(?=\d{1,2}(?!\d)|\d{4})")
"""A space between digits that does not group thousands: "1 2" is not 12."""
_DELIMITERS = (
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("**", "**"),
    ('"', '"'),
    ("`", "`"),
)
_APPROX = re.compile(
    r"\\text\s*\{\s*\(?\s*(?:approx|about)[^{}]*\}(?:[^{}]*\\text\s*\{[^{}]*\})?\s*$"
)


def unify(text: str) -> str:
    r"""Convert Unicode math to LaTeX: `5·√3 ≤ x²` becomes `5\cdot \sqrt{3} \le  x^{2}`."""
    if "\\\\" in text and "\\begin" not in text:
        text = _DOUBLED.sub(lambda _: "\\", text)  # escaped twice, as by JSON
    text = _SYNONYMS.sub(_synonym, text)
    if text.isascii():
        return text
    text = _ROOT.sub(lambda m: r"\sqrt{" + (m.group(1) or m.group(2)) + "}", text)
    text = _SUPER_RUN.sub(lambda m: "^{" + m.group().translate(_SUPERSCRIPTS) + "}", text)
    return text.translate(_TABLE)


def _synonym(match: re.Match[str]) -> str:
    mark = match.group()
    return (
        r"\emptyset " if "var" in mark else r"\infty " if "inf" in mark else match.group(1) or "e"
    )


def strip_delimiters(text: str) -> str:
    r"""Remove `$...$`, `\(...\)`, `**...**`, quotes and final punctuation, also when nested."""
    for _ in range(20):
        before = text
        text = text.strip().rstrip(".,;:").strip()
        text = text.removeprefix("\\\\ ") if "\\begin" not in text else text
        if text.endswith("\\") and not text.endswith("\\\\"):
            text = text[:-1]
        for start, end in _DELIMITERS:
            inner = text[len(start) : len(text) - len(end)]
            if (
                len(text) > len(start) + len(end)
                and text.startswith(start)
                and text.endswith(end)
                and start not in inner
            ):
                text = inner
                break
        if text == before:
            break
    return text


def balance_braces(text: str) -> str:
    """Balance braces: drop unmatched closing braces and close open ones at the end.

    Extracted answers often have one brace too many or too few.
    """
    depth, kept = 0, []
    for position, mark in enumerate(text):
        escaped = position > 0 and text[position - 1] == "\\"
        if mark == "}" and not escaped:
            if depth == 0:
                continue
            depth -= 1
        elif mark == "{" and not escaped:
            depth += 1
        kept.append(mark)
    return "".join(kept) + "}" * depth


def drop_approximation(text: str) -> str:
    r"""Remove a remark at the end such as `\text{(about }18.9\text{ cards)}`.

    The text before the remark is the answer.
    """
    return _APPROX.sub("", text) if "\\text" in text else text


def tidy(text: str) -> str:
    r"""Remove LaTeX typesetting: `\left(\tfrac12\right)` becomes `(\frac{1}{2})`.

    The meaning is kept. Runs of spaces become one space.
    """
    text = strip_delimiters(unify(text))
    text = _DROP.sub("", text).replace(r"\{,\}", ",").replace("{,}", ",").replace(r"\%", "%")
    text = drop_approximation(_SPACE.sub(" ", text))
    text = _FRAC.sub(r"\\frac", text)
    text = _FRAC_SHORT.sub(
        lambda m: (
            r"\frac{" + (m[1] or m[2] or "").strip() + "}{" + (m[3] or m[4] or "").strip() + "}"
        ),
        text,
    )
    text = _SQRT_SHORT.sub(r"\\sqrt{\1}", text)
    return strip_delimiters(_DEGREE.sub("°", text))


def key(text: str) -> str:
    r"""Comparison key: equal for two spellings of one answer.

    The text is tidied, unwrapped from `\text{}` and stripped of spaces. A word is case-folded; a
    single letter is not.

    **Example:** `key(r"\\text{Even}") == key("even")`, but `key("E") != key("e")`.
    """
    text = tidy(text)
    while (inner := _WRAP.fullmatch(text)) is not None:
        text = inner.group(1)
    text = re.sub(r"\s+", "", _SPACED_DIGITS.sub("_", text))
    return text.casefold() if len(text) > 1 and text.isalpha() else text


def unwrap(text: str) -> str:
    r"""Replace `\text{...}` and similar commands by their content."""
    return _WRAP.sub(r" \1 ", text).strip()


def words_key(text: str) -> str:
    """Comparison key for prose: case-folded, without punctuation and LaTeX delimiters."""
    text = unwrap(tidy(text).replace("$", " ").replace(r"\(", " ").replace(r"\)", " "))
    return " ".join(re.sub(r"[.,;:!?\"']", " ", text.casefold()).split())
