"""reasoning-gym families: generated questions, offline and verifiable, in disjoint splits."""

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
"""Seed and size of the pool of a reasoning-gym family: the same pool for every split."""


def gym_problems(source: GymProblems, seed: int, earlier: Sequence[int] = ()) -> list[Problem]:
    """Draw problems of one split of a family.

    A hash of its text assigns every question to one split, so splits are disjoint whatever is drawn
    from them.

    **Arguments:**
        earlier: Seeds of earlier draws (`tasks.datasets.subset.draw`).
    **Raises:** ValueError if reasoning-gym is missing, rejects the family or its params, or has too
        few questions.
    """
    reasoning_gym = _package()
    count = source.count or 256
    by_question: dict[str, Problem] = {}
    try:
        pool = reasoning_gym.create_dataset(
            source.family, seed=GYM_SEED, size=GYM_POOL, **source.params
        )
        for row in pool:
            question, answer = str(row["question"]), str(row["answer"])
            if split_of(question) == source.split and question not in by_question:
                by_question[question] = Problem(
                    id=f"{source.family}-{sha256_text(question)[:12]}",
                    prompt=question,
                    answer=answer,
                )
            if len(by_question) >= 4 * count:
                break
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(
            f"gym family {source.family!r} with {source.params}: {error}; reasoning-gym names its "
            f"families and their params"
        ) from error
    if len(by_question) < count:
        only = f"only {len(by_question)} different questions in {source.split}, need {count}"
        raise ValueError(f"gym family {source.family!r}: {only}; widen params or lower count")
    problems = list(by_question.values())
    return [problems[place] for place in draw(len(problems), count, seed, earlier)]


def _package() -> Any:
    """The reasoning_gym module. Raises ValueError if it is not installed.

    One of its games imports pyplot, which writes a list of fonts. The list goes to a temporary
    folder, because a refused call must write nothing.
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
    """The split of a question by its hash: `train` (80 %), `validation` or `test` (10 % each)."""
    place = int(sha256_text(question)[:8], 16) % 10
    return "validation" if place == 8 else "test" if place == 9 else "train"


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
