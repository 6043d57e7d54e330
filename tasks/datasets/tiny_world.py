"""A world small enough for two CPU cores: the sum of three two-digit numbers.

The base knows one good way to compute it and several bad ones. A response ends in `#answer`.
Demonstrations mix three MODES, so the headroom is in WHICH known way is sampled. (A world that
rewards only better arithmetic would not do: a net this small cannot learn that from a fixed batch.)

    12+34+56=    #97            "guess"   the answer directly; wrong three times in five
    12+34+56=    12,9#102       "column"  sum of ones, sum of tens, then both together
    12+34+56=    12,9#92        "forgot"  the same without the carry from the ones
"""

from __future__ import annotations

import hashlib
import random
import re
from functools import cache
from itertools import combinations_with_replacement
from typing import Literal

from erpd_core.refs import Problem

Split = Literal["train", "validation", "test"]
Mode = Literal["guess", "column", "forgot", "other"]

ALPHABET = "0123456789+=,#"
"""Every character of a prompt or response: the base's vocabulary without pad and end tokens."""

GUESS_SHARE = 0.45
GUESS_WRONG = 0.60
FORGET_CARRY = 0.25


def split_of(a: int, b: int, c: int) -> Split:
    """The split of a question, whatever the order of its numbers.

    80 % are train, 10 % validation, 10 % test.
    """
    digest = hashlib.sha256("+".join(map(str, sorted((a, b, c)))).encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


@cache
def _triples(split: Split) -> tuple[tuple[int, int, int], ...]:
    """Every sorted triple of a split (about 100,000 in train, 12,500 in each other)."""
    return tuple(
        t for t in combinations_with_replacement(range(10, 100), 3) if split_of(*t) == split
    )


def problems(split: Split, count: int, seed: int) -> list[Problem]:
    """`count` problems of a split, no two with the same numbers in any order.

    The same arguments give the same list. Example: `problems("train", 1, 0)[0]` is like
    `Problem(id="tiny-12+34+56", prompt="12+34+56=", answer="102")`.

    **Raises:** ValueError if `count` is larger than the split.
    """
    held = _triples(split)
    if count > len(held):
        raise ValueError(
            f"the tiny world's {split} split has {len(held):,} problems, {count:,} are asked for; "
            f"lower count"
        )
    # a string seed is hashed with SHA-512, which is the same in every process
    rng = random.Random(f"tiny-world/{split}/{seed}")
    triples = (rng.sample(t, 3) for t in rng.sample(held, count))
    return [
        Problem(id=f"tiny-{a}+{b}+{c}", prompt=f"{a}+{b}+{c}=", answer=str(a + b + c))
        for a, b, c in triples
    ]


def _columns(problem: Problem) -> tuple[int, int]:
    """The sums of the ones digits and of the tens digits."""
    numbers = [int(n) for n in problem.prompt.rstrip("=").split("+")]
    return sum(n % 10 for n in numbers), sum(n // 10 for n in numbers)


def demonstration(rng: random.Random, problem: Problem) -> str:
    """A response in a random mode, to train the base on; the tokenizer adds the end token."""
    ones, tens = _columns(problem)
    total = 10 * tens + ones
    if rng.random() < GUESS_SHARE:
        miss = rng.choice((-20, -10, -2, -1, 1, 2, 10, 20)) if rng.random() < GUESS_WRONG else 0
        return f"#{total + miss}"
    kept = ones % 10 if rng.random() < FORGET_CARRY else ones
    return f"{ones},{tens}#{10 * tens + kept}"


def extract(response: str) -> str | None:
    """The answer of a response: the text after its last `#`, or None if there is none."""
    _, mark, answer = response.rpartition("#")
    return answer if mark else None


def mode(problem: Problem, response: str) -> Mode:
    """The mode of a response.

    "column" is any column addition that did not forget its carry, right or wrong.
    """
    if re.fullmatch(r"#\d+", response):
        return "guess"
    if not (written := re.fullmatch(r"(\d+),(\d+)#(\d+)", response)):
        return "other"
    ones, tens, answer = map(int, written.groups())
    return "forgot" if ones >= 10 and answer == 10 * tens + ones % 10 else "column"
