r"""Compares our grading of typical responses with plain Math-Verify.

    python -m benchmarks.grading --json [--rounds 10] [--minutes 5]

The responses are generated from a seed: a few hundred characters of working, then the answer. Two
thirds of the answers are plain numbers and one third are formulas; half are right and half wrong.
Each pair has other responses, the same for both sides. Both use one process per processor, at most
8, warmed up before the clock starts. The peer is `verify(parse(gold), parse(response))` with its
own time limits, as in its manual.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import count
from multiprocessing import get_context
from typing import Any

from benchmarks._budget import Deadline, in_shares
from benchmarks._measure import rate
from benchmarks._pairs import Once, Result, Row, compared, in_turn, repeated
from benchmarks._report import finish, parser, quiet, said
from benchmarks._sides import Side, both, serve
from tasks.grading import Grader

SIZES = (100, 1000)
"""Responses of the warm-up, and of a pair."""
WORKERS = min(8, os.cpu_count() or 1)
CHUNK = 20
"""Responses that a process of the peer gets at a time."""

Answer = tuple[str, str]
"""A gold answer and a response."""
Grade = Callable[[list[Answer]], list[bool]]
"""Grades responses. Returns whether each is correct."""


def main() -> None:
    arguments = parser(__doc__, rounds=10)
    arguments.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.side:
        serve_side(args.side)
        return

    def compare(_: str, share: Deadline) -> Row:
        ways = (("--side", "ours"), ("--side", "peer"))
        with both("benchmarks.grading", *ways, share.whole) as sides:
            ours, peer = map(numbered, sides)
            pairs = repeated("grading", in_turn(ours, peer), share, args.rounds, SIZES)
        verdicts = [
            verdict
            for pair in pairs
            for verdict in zip(pair.ours["correct"], pair.peer["correct"], strict=True)
        ]
        row: Row = {"responses": len(verdicts), **compared(pairs)}
        row["correct"] = round(sum(ours for ours, _ in verdicts) / len(verdicts), 3)
        row["same_verdict"] = round(sum(ours == peer for ours, peer in verdicts) / len(verdicts), 3)
        return said(row)

    rows = in_shares(["grading"], compare, args.deadline)
    finish(args, "grading", "responses/s", rows, peer="Math-Verify 0.9", processes=WORKERS)


def numbered(side: Side) -> Once:
    """Return a side that grades other responses in each round."""
    numbers = count()
    return lambda size: side({"seed": next(numbers), "count": size})


def serve_side(side: str) -> None:
    """Grade the responses that requests name."""
    with ExitStack() as stack:
        grade = (ours if side == "ours" else peer)(stack)
        grade([("x+1", r"\boxed{1+x}")] * WORKERS * CHUNK)

        def round_(request: Any) -> Result:
            answers = responses(**request)
            correct: list[bool] = []
            speed = rate(len(answers), lambda: correct.extend(grade(answers)))
            return {"rate": speed, "correct": correct}

        serve(round_)


def ours(stack: ExitStack) -> Grade:
    """Return our grading by warm workers."""
    grader = stack.enter_context(Grader(workers=WORKERS))
    return lambda answers: [verdict == "correct" for verdict in grader.grade_many(answers)]


def peer(stack: ExitStack) -> Grade:
    """Return Math-Verify in a pool of processes."""
    pool = stack.enter_context(
        ProcessPoolExecutor(WORKERS, get_context("spawn"), initializer=quiet)
    )
    return lambda answers: list(pool.map(plain, answers, chunksize=CHUNK))


def plain(answer: Answer) -> bool:
    """Return Math-Verify's verdict."""
    from math_verify import parse, verify

    gold, response = answer
    return bool(verify(parse(f"${gold}$"), parse(response)))


def written(draw: random.Random) -> tuple[str, str, str]:
    """Return (gold, the same answer written differently, a wrong answer) in a common format."""
    a, b, c = draw.randint(2, 99), draw.randint(2, 49), draw.randint(2, 9)
    shapes = [
        (f"{a * b}", f"{a * b}", f"{a * b + c}"),
        (f"{a * 1000 + b}", f"{a},{b:03}", f"{a * 1000 - b}"),
        (f"{a}", f"{a}.", f"{a + 1}"),
        (f"{a}/{2 * a + 1}", rf"\dfrac{{{a}}}{{{2 * a + 1}}}", rf"\frac{{{a}}}{{{2 * a + 3}}}"),
        (f"{a}.5", rf"\frac{{{2 * a + 1}}}{{2}}", f"{a}.05"),
        (rf"{a}\%", f"{a}", f"{a + 2}"),
        (rf"{c}\sqrt{{{b}}}", rf"\sqrt{{{c * c * b}}}", rf"{c + 1}\sqrt{{{b}}}"),
        (rf"x^2+{a}x-{b}", rf"-{b}+{a}x+x^2", rf"x^2-{a}x-{b}"),
        (rf"\left({a}, \infty\right)", rf"({a},\infty)", rf"[{a},\infty)"),
    ]
    return draw.choice(shapes)


def responses(seed: int, count: int) -> list[Answer]:
    """Return gold answers and responses."""
    draw = random.Random(seed)
    answers = []
    for _ in range(count):
        gold, right, wrong = written(draw)
        answer = right if draw.random() < 0.5 else wrong
        steps = [
            f"Step {n}: we have ${draw.randint(2, 99)} + {draw.randint(2, 99)}x$, so it follows."
            for n in range(draw.randint(3, 12))
        ]
        working = "\n".join([*steps, f"Therefore the answer is $\\boxed{{{answer}}}$."])
        answers.append((gold, working))
    return answers


if __name__ == "__main__":
    main()
