"""Detects training prompts that share text with evaluation problems.

Texts overlap exactly or by word n-grams (of 13 words, as is usual since GPT-3).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erpd_core.config import OverlapConfig
from erpd_core.refs import Overlap

_WORD = re.compile(r"\w+|[-+*/=<>^]")
_NO_TEXT = re.compile(r"\s|\$|\\[()\[\],;:! ]|\\(?:left|right|displaystyle)(?![a-z])")
WORDING = 0.25
"""Share of a list's problems above which an n-gram is the list's wording, not a problem's text.

It must also be in more than three of them.
"""

Gram = tuple[str, ...]


@dataclass(frozen=True)
class Shared:
    """A training prompt and the problem it overlaps with. `share` is 1 for equal texts."""

    place: int
    """Index in the list of prompts."""
    benchmark: str
    problem: str
    kind: str
    share: float

    def record(self, ids: Sequence[str]) -> dict[str, Any]:
        return {
            "prompt": ids[self.place],
            "benchmark": self.benchmark,
            "problem": self.problem,
            "kind": self.kind,
            "share": round(self.share, 3),
        }


def plain_problem(prompt: str, template: str) -> str:
    """The problem in a worded prompt: the text where the template has `{problem}`."""
    before, _, after = template.partition("{problem}")
    return prompt.removeprefix(before).removesuffix(after)


def normalized(text: str) -> str:
    """Text without what does not change a problem.

    That is case, spacing, dollar signs and other LaTeX layout.
    """
    return _NO_TEXT.sub("", unicodedata.normalize("NFKC", text).casefold())


def ngrams(text: str, n: int) -> set[Gram]:
    """Runs of `n` words; numbers and operators are words.

    A shorter text has none, so only an equal text overlaps with it.
    """
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return {tuple(words[start : start + n]) for start in range(len(words) - n + 1)}


def find_shared(
    prompts: Sequence[str], against: Mapping[str, Mapping[str, str]], config: OverlapConfig
) -> list[Shared]:
    """Prompts that overlap with a problem of `against`, each with its largest overlap.

    Two texts overlap if they are equal after `normalized`, or if `config.share` of the shorter
    one's n-grams are in the other.

    **Arguments:**
        against: List name -> problem id -> text.
    """
    exact: dict[str, tuple[str, str]] = {}
    sizes: dict[tuple[str, str], int] = {}
    index: dict[Gram, list[tuple[str, str]]] = {}
    for name, problems in against.items():
        grams = _without_wording(
            {problem: ngrams(text, config.ngram) for problem, text in problems.items()}
        )
        for problem, text in problems.items():
            exact.setdefault(normalized(text), (name, problem))
            sizes[name, problem] = len(grams[problem])
            for gram in grams[problem]:
                index.setdefault(gram, []).append((name, problem))
    overlaps = []
    for place, text in enumerate(prompts):
        if same := exact.get(normalized(text)):
            overlaps.append(Shared(place, *same, kind="exact", share=1.0))
            continue
        mine = ngrams(text, config.ngram)
        hits = Counter(owner for gram in mine for owner in index.get(gram, ()))
        shares = {owner: count / min(len(mine), sizes[owner]) for owner, count in hits.items()}
        best = max(shares, key=lambda owner: (shares[owner], owner), default=None)
        if best is not None and shares[best] >= config.share:
            overlaps.append(Shared(place, *best, kind="ngram", share=shares[best]))
    return overlaps


def summary(
    config: OverlapConfig, checked: int, against: Mapping[str, Any], found: Sequence[Shared]
) -> Overlap:
    """Counts of overlapping prompts by kind and by benchmark, out of `checked` prompts."""
    kinds, names = (
        Counter(shared.kind for shared in found),
        Counter(shared.benchmark for shared in found),
    )
    return Overlap(
        action=config.action,
        checked=checked,
        exact=kinds["exact"],
        ngram=kinds["ngram"],
        benchmarks={name: names[name] for name in against},
    )


def _without_wording(grams: Mapping[str, set[Gram]]) -> dict[str, set[Gram]]:
    """The n-grams without those that many problems of a list share, such as instructions."""
    counts = Counter(gram for of_problem in grams.values() for gram in of_problem)
    wording = {gram for gram, count in counts.items() if count > max(3, WORDING * len(grams))}
    return {problem: of_problem - wording for problem, of_problem in grams.items()}
