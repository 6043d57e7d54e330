"""reasoning-gym families: questions that are generated, offline and verifiable, in splits that
share none.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from erpd_core.config import GymProblems
from erpd_core.refs import Problem
from tasks.datasets.subset import draw

GYM_SEED, GYM_POOL = 20_260_525, 20_000
"""Where a reasoning-gym family is read from, and how far: the same pool for every split."""


def gym_problems(source: GymProblems, seed: int, earlier: Sequence[int] = ()) -> list[Problem]:
    """Every question belongs to one split by a hash of its text, so splits are disjoint whatever
    is drawn from them.
    """
    reasoning_gym = _package()
    count = source.count or 256
    found: dict[str, Problem] = {}
    try:
        pool = reasoning_gym.create_dataset(
            source.family, seed=GYM_SEED, size=GYM_POOL, **source.params
        )
        for row in pool:
            question, answer = str(row["question"]), str(row["answer"])
            if split_of(question) == source.split and question not in found:
                found[question] = Problem(
                    id=f"{source.family}-{sha256_text(question)[:12]}",
                    prompt=question,
                    answer=answer,
                )
            if len(found) >= 4 * count:
                break
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(
            f"gym family {source.family!r} with {source.params}: {error}; reasoning-gym names its "
            f"families and their params"
        ) from error
    if len(found) < count:
        only = f"only {len(found)} different questions in {source.split} for {count} asked"
        raise ValueError(f"gym family {source.family!r}: {only}; widen params or lower count")
    problems = list(found.values())
    return [problems[place] for place in draw(len(problems), count, seed, earlier)]


def _package() -> Any:
    """reasoning-gym. Raises ValueError when it is not installed.

    For one of its games it imports pyplot, which makes a list of fonts: that goes to a temporary
    folder, for a call that is refused writes nothing.
    """
    before = os.environ.get("MPLCONFIGDIR")
    try:
        with tempfile.TemporaryDirectory(prefix="erpd-fonts-", ignore_cleanup_errors=True) as fonts:
            os.environ["MPLCONFIGDIR"] = fonts
            import reasoning_gym
    except ImportError as error:
        raise ValueError(
            "problems of kind gym need reasoning-gym; install the extra: pip install -e "
            "'.[problems]'"
        ) from error
    finally:
        del os.environ["MPLCONFIGDIR"]
        os.environ |= {"MPLCONFIGDIR": before} if before is not None else {}
    return reasoning_gym


def split_of(question: str) -> str:
    """`train` (80 %), `validation` or `test` (10 % each), by a hash of the question."""
    place = int(sha256_text(question)[:8], 16) % 10
    return "validation" if place == 8 else "test" if place == 9 else "train"


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
