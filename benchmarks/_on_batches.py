"""Compares work on the batches with TRL's: the two sides of `_work`, pair by pair."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any

from benchmarks import _ours
from benchmarks._batches import BATCHES
from benchmarks._budget import Deadline, TimeUp, in_shares
from benchmarks._pairs import Figure, Pair, Result, Row, compared, in_turn, repeated
from benchmarks._report import finish, parser, said
from benchmarks._sides import Side, both

Sides = tuple[Side, Side]
Details = Callable[[Row, list[Pair], Side], Row]
"""What else a row says: from its comparison, the pairs, and our side, which still runs."""


def options(about: str | None) -> argparse.ArgumentParser:
    """Return the parser of a benchmark of one kind of work."""
    arguments = parser(about, rounds=5)
    arguments.add_argument("--batch", choices=list(BATCHES))
    return arguments


def sides(loss: str, deadline: Deadline) -> AbstractContextManager[Sides]:
    """Start both sides with a loss, and wait until they are ready."""
    return both("benchmarks._work", ("ours", loss), ("peer", loss), deadline)


def request(side: Side, work: str, batch: str, groups: int) -> Result:
    """Run one round of a side on the first groups of a batch."""
    return side({"work": work, "batch": batch, "groups": groups})


def measured(
    sides: Sides, work: str, batch: str, share: Deadline, rounds: int, figure: Figure = Figure()
) -> tuple[Row, list[Pair]]:
    """Compare both sides on a batch. Returns the row of the comparison, and its pairs."""
    sizes = BATCHES[batch].sizes
    ours, peer = (partial(request, side, work, batch) for side in sides)
    pairs = repeated(f"{work}, {batch}", in_turn(ours, peer), share, rounds, sizes, figure)
    last = pairs[-1]
    row = {"batch": batch, "groups": f"{last.size} of {sizes[-1]}", "tokens": last.ours["tokens"]}
    return {**row, **compared(pairs, figure)}, pairs


def run(
    args: argparse.Namespace, name: str, work: str, loss: str, details: Details, **setup: Any
) -> None:
    """Run a benchmark of one kind of work. The headline is the GSM8K-like batch."""
    _ours.smollm2()  # convert it before two processes need it
    wanted = [args.batch] if args.batch else list(BATCHES)
    rows: dict[str, Row] = {}
    with suppress(TimeUp), sides(loss, args.deadline) as running:

        def compare(batch: str, share: Deadline) -> Row:
            row, pairs = measured(running, work, batch, share, args.rounds)
            return said({**row, **details(row, pairs, running[0])})

        rows = in_shares(wanted, compare, args.deadline)
    finish(args, name, "response tokens/s", rows, wanted, model="SmolLM2-135M", **setup)
