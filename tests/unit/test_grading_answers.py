"""Answers as models write them, each with a careful human's verdict, and hostile answers.

Hostile answers only need a verdict in time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.grading import Grader

pytestmark = pytest.mark.slow

CASES = Path(__file__).with_name("answer_cases.txt")
MARKS = {" === ": True, " =/= ": False}


def cases() -> list[tuple[str, str, bool]]:
    r"""(gold, prediction, whether it is right) of every line.

    A literal `\n` before `\n`, `5`, `$` or `\boxed` is a line break.
    """
    parsed = []
    for line in CASES.read_text(encoding="utf-8").splitlines():
        for mark, right in MARKS.items():
            if mark in line and not line.startswith("#"):
                gold, prediction = line.split(mark)
                for start in ("\\n", "5", "$", "\\boxed"):
                    prediction = prediction.replace("\\n" + start, "\n" + start)
                parsed.append((gold, prediction.replace("\\n\n", "\n\n"), right))
    return parsed


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=2, deadline=20) as pool:
        yield pool


def test_every_case_gets_the_verdict_a_careful_human_gives(grader: Grader) -> None:
    wanted = cases()
    assert sum(right for *_, right in wanted) > 200 and sum(not right for *_, right in wanted) > 200
    verdicts = grader.grade_many([(gold, prediction) for gold, prediction, _ in wanted])
    missed = [
        (*case, verdict)
        for case, verdict in zip(wanted, verdicts, strict=True)
        if (verdict == "correct") != case[2]
    ]
    assert missed == []


def test_a_thinking_part_and_words_around_change_no_verdict(grader: Grader) -> None:
    boxed = [case for case in cases() if case[1].startswith("\\boxed{")]
    wrapped = [
        (
            gold,
            f"<think>maybe \\boxed{{17171}}</think>\nWe add. So the result is\n\\[\n{text}.\n\\]",
        )
        for gold, text, _ in boxed
    ]
    verdicts = grader.grade_many(wrapped)
    missed = [
        (*case, verdict)
        for case, verdict in zip(boxed, verdicts, strict=True)
        if (verdict == "correct") != case[2]
    ]
    assert missed == []


HOSTILE = [
    r"\boxed{10^{10^{10^{10}}}}",
    r"\boxed{9^{9^{9^{9}}}}",
    r"\boxed{2^{999999999}}",
    r"\boxed{999999999!}",
    r"\boxed{((10!)!)!}",
    r"\boxed{1e999999999}",
    r"\boxed{1 \times 10^{99}\text{ trillion}}",
    r"\boxed{\binom{10^9}{5 \cdot 10^8}}",
    r"\boxed{" + r"\frac{1}{" * 2000 + "2" + "}" * 2000 + "}",
    r"\boxed{" + "(" * 5000 + "1" + ")" * 5000 + "}",
    r"\boxed{" + r"\sqrt{" * 3000 + "x" + "}" * 3001,
    r"\boxed{" + "x+" * 4000 + "1}",
    r"\boxed{" + "9" * 1_000_000 + "}",
    "9" * 2_000_000,
    r"\boxed{" * 100_000,
    r"\boxed{\prod_{n=1}^{10^{9}} (1+\frac{1}{n})}",
    r"\boxed{\int_0^1 x^{x^{x}} \sin(e^{x^{9}})\,dx}",
    r"\boxed{\sum_{k=1}^{10^{12}} \frac{1}{k^k}}",
    r"\boxed{x^{1000000}+y^{1000000}=z^{1000000}}",
    r"\boxed{(x+y+z+w)^{5000}}",
    r"\boxed{0." + "3" * 900 + "}",
    "\x00\ud800" + r"\boxed{6",
]
CODE = [
    "__import__('pathlib').Path({path!r}).touch()",
    r"\boxed{{__import__('pathlib').Path({path!r}).touch()}}",
    r"\boxed{{\text{{exec(open({path!r},'w'))}}}}",
    "The answer is open({path!r}, 'w').write('x')",
    "eval(\"open({path!r},'w')\")",
    "lambda: open({path!r},'w')",
    r"\boxed{{\input{{{path}}} \write18{{touch {path}}}}}",
    "#### (lambda: open({path!r}, 'w'))()",
    "[].__class__.__base__.__subclasses__()  # open({path!r},'w')",
    "sympify('open({path!r},\"w\")')",
]


@pytest.mark.slow
def test_hostile_answers_get_a_verdict_in_time_and_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    attacks = HOSTILE + [text.format(path=str(canary)) for text in CODE]
    with Grader(workers=2, deadline=1.0) as grader:
        for gold in ("5", r"\frac{x+1}{2}"):
            began = time.monotonic()
            verdicts = grader.grade_many([(gold, attack) for attack in attacks])
            assert set(verdicts) <= {"wrong", "unparsable", "timeout"}
            # at worst each attack costs a deadline and a worker's start, on two workers
            assert time.monotonic() - began < 40 + 3 * len(attacks)
    assert not canary.exists()
