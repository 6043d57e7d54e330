"""Judges answers that the rules call wrong or unparsable; only for evaluation.

The judge turns an answer to correct only if it calls answer and gold the same in both orders.
Otherwise the verdict of the rules stays, and the case is recorded: another reply, orders that
disagree, an answer that may not be sent, a spent budget. The judge never affects training rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Literal, NamedTuple

from erpd_core.config.judge import JudgeConfig
from tasks.evaluation.judge.client import BudgetSpent, JudgeClient
from tasks.evaluation.judge.prompt import messages, read_reply, sendable
from tasks.host.home import home

Outcome = Literal["same", "different", "disagree", "unclear", "unsent", "unjudged"]
"""`same` in both orders; `different`; `disagree`: the two orders disagree; `unclear`: a reply is no
verdict; `unsent`: no answer may be sent; `unjudged`: the budget was spent before.
"""
OUTCOMES: tuple[Outcome, ...] = ("same", "different", "disagree", "unclear", "unsent", "unjudged")


class JudgeItem(NamedTuple):
    """One answer to judge.

    `prediction` may be a complete response: only the answer extracted from it is sent.
    """

    problem: str
    gold: str
    prediction: str


class JudgeReport(NamedTuple):
    """The judge's outcome for each item, and what it cost."""

    outcomes: list[Outcome]
    calls: int
    tokens: int
    spent: str | None
    """Name in `JudgeConfig` of the limit that was reached; None if none was."""


def judge_answers(
    items: Sequence[JudgeItem],
    config: JudgeConfig,
    cache: Path | None = None,
    extractor: str = "auto",
    tick: Callable[[int], object] = lambda done: None,
) -> JudgeReport:
    """Ask a judge about every item; equal items are asked once.

    **Arguments:**
        cache: Folder of replies; `ERPD_HOME/cache/judge` if None.
        extractor: How an answer is found in a prediction.
        tick: Receives the number of finished items.
    **Raises:** JudgeError if the endpoint cannot be used. Replies so far stay in the cache.
    """
    places: dict[tuple[str, str, str], list[int]] = {}
    outcomes: list[Outcome] = ["unsent"] * len(items)
    for index, item in enumerate(items):
        answer = sendable(item.prediction, extractor)
        if answer is not None and item.gold.strip():
            places.setdefault((item.problem, item.gold, answer), []).append(index)
    client = JudgeClient(config, cache or home() / "cache" / "judge")
    done = len(items) - sum(map(len, places.values()))
    tick(done)
    try:
        with ThreadPoolExecutor(config.concurrency) as pool:
            running: dict[Future[Outcome], list[int]] = {}
            waiting = list(places.items())[::-1]
            try:
                while running or waiting:
                    while waiting and len(running) < config.concurrency:
                        question, indices = waiting.pop()
                        running[pool.submit(_judge, client, *question)] = indices
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        indices = running.pop(future)
                        outcome = future.result()
                        for index in indices:
                            outcomes[index] = outcome
                        done += len(indices)
                        tick(done)
            except BaseException:
                client.stop()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        client.close()
    return JudgeReport(outcomes, client.budget.calls, client.budget.tokens, client.budget.spent)


def _judge(client: JudgeClient, problem: str, gold: str, answer: str) -> Outcome:
    """Ask in both orders; in the second only after "same", since nothing else turns a verdict."""
    try:
        for swapped in (False, True):
            verdict = read_reply(client.ask(messages(problem, gold, answer, swapped)) or "")
            if verdict is None:
                return "unclear"
            if verdict == "different":
                return "disagree" if swapped else "different"
    except BudgetSpent:
        return "unjudged"
    return "same"
