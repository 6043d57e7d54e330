r"""Compares our grading of 10,000 typical responses with plain Math-Verify.

    python -m benchmarks.grading --json

The responses are generated from a seed: a few hundred characters of working, then the answer. Two
thirds of the answers are plain numbers and one third are formulas; half are right and half wrong.
Both sides use one process per processor, at most 8, warmed up before the clock starts. The peer is
`verify(parse(gold), parse(response))` with its own time limits, as in its manual, on every fifth
response.
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


def responses(seed: int = 0) -> list[Pair]:
    """Return `COUNT` pairs of a gold answer and a response."""
    draw = random.Random(seed)
    pairs = []
    for _ in range(COUNT):
        gold, right, wrong = written(draw)
        answer = right if draw.random() < 0.5 else wrong
        steps = [
            f"Step {n}: we have ${draw.randint(2, 99)} + {draw.randint(2, 99)}x$, so it follows."
            for n in range(draw.randint(3, 12))
        ]
        pairs.append((gold, "\n".join([*steps, f"Therefore the answer is $\\boxed{{{answer}}}$."])))
    return pairs


def plain(pair: Pair) -> bool:
    """Return the peer's verdict."""
    from math_verify import parse, verify

    logging.disable(logging.WARNING)
    gold, response = pair
    return bool(verify(parse(f"${gold}$"), parse(response)))


def measure() -> dict[str, object]:
    """Measure ours, the peer, then ours again, which shows a change of the machine's speed."""
    workers = min(8, os.cpu_count() or 1)
    pairs = responses()
    peer_pairs = pairs[::EVERY]
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
        theirs = list(pool.map(plain, peer_pairs, chunksize=20))
        peer = len(peer_pairs) / (time.monotonic() - began)
        began = time.monotonic()
        verdicts += grader.grade_many(halves[1])
        seconds.append(time.monotonic() - began)
    ours = COUNT / sum(seconds)
    correct = verdicts.count("correct") / COUNT
    agree = sum(
        (verdict == "correct") == other
        for verdict, other in zip(verdicts[::EVERY], theirs, strict=True)
    ) / len(peer_pairs)
    load = os.getloadavg()[0]
    return {
        "name": "grading",
        "ours": round(ours, 1),
        "peer": round(peer, 1),
        "ratio": round(ours / peer, 2),
        "unit": "responses/s",
        "setup": f"{COUNT} responses, {correct:.0%} correct; peer: Math-Verify 0.9 on "
        f"{len(peer_pairs)} of them, same verdict on {agree:.1%}; "
        f"{workers} processes each; ours took {seconds[0]:.1f} s and {seconds[1]:.1f} s for its "
        f"halves; load {load:.1f}",
    }


def main() -> None:
    """Print the result; with `--json` as one JSON object on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
