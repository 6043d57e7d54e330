r"""Grading 10,000 typical responses, against plain Math-Verify on the same responses: `python -m
benchmarks.grading --json`.

The responses are written here, by seed: a few hundred characters of working, then the answer, two
thirds of them plain numbers and one third formulas, half right and half wrong. Both sides use as
many processes as there are processors, warmed up before the clock starts. The peer is
`verify(parse(gold), parse(response))` with its own deadlines, as its manual shows it, on every
fifth response.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tasks.grading import Grader

COUNT = 10_000
EVERY = 5
"""The peer grades every fifth response; rates are compared, not times."""

Pair = tuple[str, str]


def written(draw: random.Random) -> tuple[str, str, str]:
    """(gold, the same answer written another way, a wrong answer) of one of the usual shapes."""
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


def responses(seed: int = 0) -> list[Pair]:
    """`COUNT` pairs of a gold and a response to it."""
    draw = random.Random(seed)
    pairs = []
    for _ in range(COUNT):
        gold, right, wrong = written(draw)
        said = right if draw.random() < 0.5 else wrong
        steps = [
            f"Step {n}: we have ${draw.randint(2, 99)} + {draw.randint(2, 99)}x$, so it follows."
            for n in range(draw.randint(3, 12))
        ]
        pairs.append((gold, "\n".join([*steps, f"Therefore the answer is $\\boxed{{{said}}}$."])))
    return pairs


def plain(pair: Pair) -> bool:
    """The peer's verdict."""
    from math_verify import parse, verify

    logging.disable(logging.WARNING)
    gold, response = pair
    return bool(verify(parse(f"${gold}$"), parse(response)))


def measure() -> dict[str, object]:
    """Both sides in this run: ours, the peer, ours again, so that a change of the machine's pace
    is seen.
    """
    workers = min(8, os.cpu_count() or 1)
    pairs = responses()
    some = pairs[::EVERY]
    seconds: list[float] = []
    with (
        Grader(workers=workers) as grader,
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
    ):
        grader.grade_many([("x+1", r"\boxed{1+x}")] * workers)
        list(pool.map(plain, [("x+1", "$1+x$")] * workers))
        halves = (pairs[: COUNT // 2], pairs[COUNT // 2 :])
        began = time.monotonic()
        verdicts = grader.grade_many(halves[0])
        seconds.append(time.monotonic() - began)
        began = time.monotonic()
        theirs = list(pool.map(plain, some, chunksize=20))
        peer = len(some) / (time.monotonic() - began)
        began = time.monotonic()
        verdicts += grader.grade_many(halves[1])
        seconds.append(time.monotonic() - began)
    ours = COUNT / sum(seconds)
    correct = verdicts.count("correct") / COUNT
    agree = sum(
        (verdict == "correct") == other
        for verdict, other in zip(verdicts[::EVERY], theirs, strict=True)
    ) / len(some)
    load = os.getloadavg()[0]
    return {
        "name": "grading",
        "ours": round(ours, 1),
        "peer": round(peer, 1),
        "ratio": round(ours / peer, 2),
        "unit": "responses/s",
        "setup": f"{COUNT} responses, {correct:.0%} correct; peer: Math-Verify 0.9 on {len(some)} "
        f"of them, same verdict on {agree:.1%}; "
        f"{workers} processes each; ours took {seconds[0]:.1f} s and {seconds[1]:.1f} s by "
        f"halves; load {load:.1f}",
    }


def main() -> None:
    """Print the result; with `--json` as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    as_json = parser.parse_args().json
    result = measure()
    if as_json:
        print(json.dumps(result))
    else:
        print(
            f"{result['ours']} responses/s, Math-Verify {result['peer']}: {result['ratio']} "
            f"times\n{result['setup']}"
        )


if __name__ == "__main__":
    main()
