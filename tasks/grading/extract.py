r"""Finds the final answer in a response.

An answer is boxed, follows `####` or "the final answer is", or is the whole text of a bare answer.

This runs in the parent process on untrusted text from a policy. So every function is a linear scan
without heavy imports: a million unbalanced braces must not cost more than reading them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["box", "marker", "hash", "whole"]
TAIL = 3000
"""Characters kept from the end of an unboxed response.

The end holds the answer, and Math-Verify's regular expressions are slow on long texts.
"""

_TOKEN = re.compile(r"\\+(?:boxed|fbox)\s*\{|\\+framebox\s*\{|\\\\|\\[{}]|[{}]")
_BARE_BOX = re.compile(r"\\+(?:boxed|fbox)\s+(-?[\w./\\]+)")
_WORD_GAP = r"(?:and|or|und|et|y|for part \([a-z]\) and)"
_GAP = re.compile(
    rf"(?:\s|\$|\\[()\[\],;:!]|[,;.&]|\\q?quad|\\\\|(?<!\w){_WORD_GAP}(?!\w)|\\(?:text|mbox)\s*\{{\s*,?\s*{_WORD_GAP}\s*\}}"
    r"|[A-Za-z](?:_\{?\w{1,3}\}?)?\s*=)*"
)
_ANCHOR = re.compile(
    r"(?:(?i:\b(?:(?:final\s{1,5})?answers?|(?:correct|right)\s{1,5}(?:option|choice))\b\W{0,4}?(?P<verb>is|are|must\s+be|will\s+be|would\s+be|isn't|aren't|can(?:'t|not|\s+not)\s+be)\b|\b(?:final\s{1,5})?answer\s{0,5}\**\s{0,5}(?:[:：=]|\n)"
    r"|^[ \t]{0,8}\**A[ \t]{0,8}[:：])"
    r"|答案(?:是|为|：|:))[*_:：\s]*",
    re.MULTILINE,
)
_CUT = re.compile(
    r"\n|(?<=[\w})\]$%*])\.?\s*I hope\b|<\||</|(?<=[\w})\]$%*])[.!](?=\s+[A-Z\\\"'*]|\s*$)|。"
)
_LEAD = re.compile(
    r"\\(?:text|mbox|textbf|mathrm)\s*\{([^{}]{0,80}(?:\b(?:is|are|equals)|:)\s*:?\s*)\}((?!\s*\\text).{1,200})",
    re.DOTALL,
)
_NEGATED = re.compile(
    r"\b(?:not?|none|never|neither|cannot|except|more|less|fewer|greater|least|most)\b",
    re.IGNORECASE,
)
_THINK_END = "</think>"


@dataclass(frozen=True)
class ExtractedAnswer:
    r"""The answer of a response and how it was marked.

    **Example:** `ExtractedAnswer(text="42", kind="box")` from `"so \\boxed{42}."`.
    """

    text: str
    kind: Kind
    context: str = ""
    """End of the response, for `marker` and `whole`.

    Math-Verify searches it if `text` is not plain.
    """


def after_thinking(response: str) -> str:
    """The text after the last `</think>`; a closed thinking part is never an answer."""
    return response.rpartition(_THINK_END)[2]


def boxes(text: str) -> list[tuple[int, int, str]]:
    r"""Outermost balanced `\boxed{...}` and `\fbox{...}` as (start, end, content), in order.

    One pass with a stack.
    """
    # (start, content start) of a box, None for a plain brace
    stack: list[tuple[int, int] | None] = []
    outermost: list[tuple[int, int, str]] = []
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark[-1] == "{" and len(mark) > 2:
            stack.append((token.start(), token.end()))
        elif mark == "{":
            stack.append(None)
        elif mark == "}" and stack:
            box = stack.pop()
            if box is not None:
                while outermost and outermost[-1][0] > box[0]:
                    outermost.pop()  # it is inside this box
                outermost.append((box[0], token.end(), text[box[1] : token.start()].strip()))
    return outermost


def last_boxed(text: str) -> str | None:
    r"""Content of the last box, or None if there is no box.

    Adjacent boxes ("\boxed{1} and \boxed{2}") are one answer, a list. An empty box counts only if
    it is the only one.
    """
    all_boxes = boxes(text)
    if not all_boxes:
        bare = _BARE_BOX.findall(text)
        return bare[-1].rstrip(".") if bare else None
    while len(all_boxes) > 1 and not all_boxes[-1][2]:
        all_boxes.pop()
    run = [all_boxes[-1]]
    for box in reversed(all_boxes[:-1]):
        if run[-1][0] - box[1] > 60 or not _GAP.fullmatch(text[box[1] : run[-1][0]]):
            break
        run.append(box)
    contents = [content for _, _, content in reversed(run) if content]
    unique = list(dict.fromkeys(contents))
    return ", ".join(unique)


def last_hash(text: str) -> str | None:
    """Text after the last `####` (GSM8K), up to the end of the line."""
    _, mark, tail = text.rpartition("####")
    return tail.strip().split("\n")[0].strip() if mark and tail.strip() else None


def last_marked(text: str) -> tuple[str, int] | None:
    """Text after the last "final answer is", "answer:" or "A:", and where that marker starts.

    The text ends with its sentence.
    """
    markers = list(_ANCHOR.finditer(text))
    if not markers:
        return None
    last = markers[-1]
    rest = text[last.end() : last.end() + TAIL]
    cut = _CUT.search(rest)
    fragment = rest[: cut.start()] if cut else rest
    value = fragment.strip().strip("*\"' ").strip()
    denial = "not " if re.search("n't|not", last["verb"] or "") else ""
    return denial + value.removeprefix("either "), last.start()


def drop_lead(text: str) -> str:
    r"""Remove words that only announce the value.

    Examples: `\text{The radius is } 5`, `\text{Answer: } 5`.
    """
    lead = _LEAD.fullmatch(text.strip())
    return lead.group(2) if lead and not _NEGATED.search(lead.group(1)) else text


def in_box(boxed: str | None) -> ExtractedAnswer | None:
    r"""The answer in a box, without words that only announce it (see `drop_lead`)."""
    return ExtractedAnswer(drop_lead(boxed), "box") if boxed else None


def _auto(response: str) -> ExtractedAnswer | None:
    text = after_thinking(response)
    boxed = last_boxed(text)
    if boxed is not None:
        return in_box(boxed)
    hashed = last_hash(text)
    if hashed is not None:
        return ExtractedAnswer(hashed, "marker", hashed)
    if not text.strip():
        return None
    marked = last_marked(text[-10 * TAIL :])
    if marked is not None and marked[0]:
        return ExtractedAnswer(marked[0], "marker", text[-10 * TAIL :][marked[1] :][:TAIL])
    return ExtractedAnswer(text.strip()[-TAIL:], "whole", text.strip()[-TAIL:])


def _boxed(response: str) -> ExtractedAnswer | None:
    return in_box(last_boxed(after_thinking(response)))


def _hash(response: str) -> ExtractedAnswer | None:
    """The answer of a tiny-world response: "12,9#102" -> "102"."""
    _, mark, tail = response.rpartition("#")
    return ExtractedAnswer(tail.strip(), "hash") if mark and tail.strip() else None


EXTRACTORS: dict[str, Callable[[str], ExtractedAnswer | None]] = {
    "auto": _auto,
    "boxed": _boxed,
    "hash": _hash,
}
"""Functions that find the answer, by name.

`boxed` is the strict rule for RL rewards. `hash` is the rule of the embedded tiny world.
"""


def extract(response: str, extractor: str = "auto") -> ExtractedAnswer | None:
    r"""Find the final answer of `response`; None if it has none.

    **Example:** `extract("<think>\\boxed{1}?</think> It is \\boxed{2}.").text == "2"`

    **Raises:** ValueError for an unknown extractor.
    """
    if extractor not in EXTRACTORS:
        raise ValueError(f"unknown extractor {extractor!r}; choose one of {', '.join(EXTRACTORS)}")
    return EXTRACTORS[extractor](response)
