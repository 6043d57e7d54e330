"""An LLM judge for answers that rules call wrong or unparsable: evaluation only, never the training
reward.

An answer is turned to correct only when the judge calls the two answers the same in both orders.
Everything else (another reply, orders that disagree, an answer that may not be sent, a spent
budget) leaves the verdict of the rules as it is, and is recorded as such.
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
"""`same` in both orders; `different`; `disagree`, the orders do; `unclear`, a reply that is no
verdict; `unsent`, there is no answer that may be sent; `unjudged`, the budget was spent before.
"""
OUTCOMES: tuple[Outcome, ...] = ("same", "different", "disagree", "unclear", "unsent", "unjudged")


class JudgeItem(NamedTuple):
    """One answer to judge. `prediction` may be a whole response: only the answer extracted from
    it is sent.
    """

    problem: str
    gold: str
    prediction: str


class JudgeReport(NamedTuple):
    """What the judge said, item by item, and what it cost."""

    outcomes: list[Outcome]
    calls: int
    tokens: int
    spent: str | None
    """The limit that ended it, by its name in `JudgeConfig`."""


def judge_answers(
    items: Sequence[JudgeItem],
    config: JudgeConfig,
    cache: Path | None = None,
    extractor: str = "auto",
    tick: Callable[[int], object] = lambda done: None,
) -> JudgeReport:
    """Ask a judge about every item, equal ones once. Raises JudgeError when the endpoint cannot be
    used; replies so far are kept.

    **Arguments:** `cache`, the folder of replies (`ERPD_HOME/cache/judge` when absent);
    `extractor`, how an answer is found in a prediction; `tick(done)` is told how many items are
    done.
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
                        question, where = waiting.pop()
                        running[pool.submit(_judge, client, *question)] = where
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        where = running.pop(future)
                        outcome = future.result()
                        for index in where:
                            outcomes[index] = outcome
                        done += len(where)
                        tick(done)
            except BaseException:
                client.stop()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        client.close()
    return JudgeReport(outcomes, client.budget.calls, client.budget.tokens, client.budget.spent)


def _judge(client: JudgeClient, problem: str, gold: str, answer: str) -> Outcome:
    """Both orders; the second only when the first says same, since nothing else can turn a
    verdict.
    """
    try:
        for swapped in (False, True):
            said = read_reply(client.ask(messages(problem, gold, answer, swapped)) or "")
            if said is None:
                return "unclear"
            if said == "different":
                return "disagree" if swapped else "different"
    except BudgetSpent:
        return "unjudged"
    return "same"
