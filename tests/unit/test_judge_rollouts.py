"""The judge in an evaluation: real rollouts of the tiny world, and a scripted judge on a server."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chat_server import serving
from helpers import World

from erpd_core.config import CampaignConfig, JudgeConfig, SamplingConfig
from flows.recipes.load import load_recipe
from flows.steps.preflight import campaign_id
from tasks.evaluation.evaluate import EvaluatePolicy
from tasks.evaluation.judge.rollouts import JudgeRollouts, judged_outcomes
from tasks.evaluation.result_files import load_judged
from tasks.execution.stage import get_or_compute
from tasks.rollouts import outcomes, shards

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own home, and so its own cache of replies."""
    monkeypatch.setenv("ERPD_HOME", str(tmp_path))
    return tmp_path


def judge(endpoint: str, model: str, **changes: object) -> JudgeConfig:
    return JudgeConfig(endpoint=endpoint, model=model, **changes)


def evaluation(world: World, config: JudgeConfig | None) -> EvaluatePolicy:
    sampling = SamplingConfig(samples=8, temperature=1.0, max_new_tokens=24, shard=24)
    return EvaluatePolicy(
        policy=world.base,
        old=world.base,
        base=world.base,
        benchmarks={"sums": world.problems},
        sampling=sampling,
        seed=7,
        judge=config,
    )


def test_what_the_judge_turns_counts_and_the_rollout_stays_as_it_was(world: World) -> None:
    rows = [
        row
        for path in shards(world.store, world.rollouts)
        for row in pq.read_table(path).to_pylist()
    ]
    wrong = [row for row in rows if row["verdict"] != "correct"]
    before = outcomes(world.store, world.rollouts)
    with serving("yes") as server:
        judged = get_or_compute(
            JudgeRollouts(rollouts=world.rollouts, judge=judge(server.endpoint, "always-yes")),
            world.context,
        )
        asked = len(server.prompts)
    answers = {
        (row["problem"], row["text"].rpartition("#")[2].strip())
        for row in wrong
        if row["text"].rpartition("#")[2].strip()
    }
    sent = sum(bool("#" in row["text"] and row["text"].rpartition("#")[2].strip()) for row in wrong)
    assert sent > 20, "the base must err often enough for this test"
    assert judged.outcomes["same"] == sent and judged.outcomes["unsent"] == len(wrong) - sent
    assert asked == judged.calls == 2 * len({pair for pair in answers if pair[1]})
    after = judged_outcomes(world.store, world.rollouts, judged)
    assert sum(map(sum, after.values())) == sum(map(sum, before.values())) + sent
    assert outcomes(world.store, world.rollouts) == before and list(after) == list(before)


def test_an_evaluation_with_a_judge_is_another_question_with_its_own_scores(world: World) -> None:
    plain = get_or_compute(evaluation(world, None), world.context)
    with serving("yes") as server:
        lenient = evaluation(world, judge(server.endpoint, "yes-man"))
        report = get_or_compute(lenient, world.context)
    with serving("no") as server:
        stern = get_or_compute(evaluation(world, judge(server.endpoint, "no-man")), world.context)
    turned = load_judged(world.store, lenient.identity())["sums"].outcomes["same"]
    assert report.scores["sums"].avg == pytest.approx(plain.scores["sums"].avg + turned / 512)
    assert stern.scores == plain.scores and (stern.kl_old, stern.length) == (
        plain.kl_old,
        plain.length,
    )
    assert load_judged(world.store, evaluation(world, None).identity()) == {}
    assert lenient.identity() != evaluation(world, None).identity()


def test_a_spent_budget_is_recorded_and_a_larger_one_asks_only_the_rest(world: World) -> None:
    with serving("yes") as server:
        short = get_or_compute(
            JudgeRollouts(
                rollouts=world.rollouts, judge=judge(server.endpoint, "costly", max_calls=6)
            ),
            world.context,
        )
        full = get_or_compute(
            JudgeRollouts(rollouts=world.rollouts, judge=judge(server.endpoint, "costly")),
            world.context,
        )
        assert len(server.prompts) == short.calls + full.calls
    assert short.spent == "max_calls" and short.calls == 6 and short.outcomes["unjudged"] > 0
    assert full.spent is None and full.outcomes["unjudged"] == 0


def test_where_a_judge_is_enters_no_identity_and_who_it_is_does(world: World) -> None:
    here, there = (
        judge("http://a/v1", "m"),
        judge("http://b/v1", "m", key_env="K", concurrency=1, timeout=5, retries=0),
    )
    other = judge("http://a/v1", "n")
    assert (
        evaluation(world, here).identity()
        == evaluation(world, there).identity()
        != evaluation(world, other).identity()
    )
    tiny = load_recipe("tiny")

    def named(config: JudgeConfig | None) -> str:
        tree = tiny.model_dump() | {
            "evaluation": tiny.evaluation.model_dump() | {"judge": config and config.model_dump()}
        }
        return campaign_id(CampaignConfig.model_validate(tree))

    assert named(here) == named(there) != named(other) and named(None) == campaign_id(
        tiny
    ) != named(here)
