"""The tiny world and its committed base, on which small studies and most end-to-end tests run."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest

from erpd_core.refs import Problem
from tasks.datasets import tiny_world
from tasks.models.import_policy import ASSETS

ROOT = Path(__file__).parents[2]
BASE = ASSETS / "tiny-base"
SPLITS = ("train", "validation", "test")


def numbers(problem: Problem) -> tuple[int, ...]:
    return tuple(int(n) for n in re.fullmatch(r"(\d\d)\+(\d\d)\+(\d\d)=", problem.prompt).groups())


def test_world_is_light_to_import():
    code = (
        "import sys, tasks.datasets.tiny_world; sys.exit(any(m in sys.modules for m in "
        "('torch', 'transformers', 'numpy')))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_right_and_ids_say_the_question(split):
    for problem in tiny_world.problems(split, 500, seed=3):
        assert all(10 <= n <= 99 for n in numbers(problem))
        assert problem.answer == str(sum(numbers(problem)))
        assert problem.id == f"tiny-{problem.prompt.removesuffix('=')}"


@pytest.mark.slow
def test_no_question_crosses_splits_even_permuted():
    """Checked on complete splits: together they hold every question, and no two share one."""
    capacity = {split: len(tiny_world._triples(split)) for split in SPLITS}
    held = {
        s: {tuple(sorted(numbers(p))) for p in tiny_world.problems(s, capacity[s], seed=0)}
        for s in SPLITS
    }
    assert {s: len(held[s]) for s in SPLITS} == capacity  # distinct within a call
    assert (
        not held["train"] & held["validation"]
        and not held["train"] & held["test"]
        and not held["validation"] & held["test"]
    )
    assert sum(capacity.values()) == 92 * 91 * 90 // 6  # multisets of 3 out of 90 numbers
    assert min(capacity.values()) > 10_000
    with pytest.raises(ValueError):
        tiny_world.problems("test", capacity["test"] + 1, seed=0)


def test_a_split_ignores_order():
    for question in [(12, 34, 56), (99, 10, 10), (45, 67, 89)]:
        assert len({tiny_world.split_of(*order) for order in permutations(question)}) == 1


def test_problems_are_a_function_of_their_arguments():
    once = tiny_world.problems("validation", 40, seed=7)
    random.seed(1)  # the global generator is not read
    state = random.getstate()
    assert tiny_world.problems("validation", 40, seed=7) == once
    assert random.getstate() == state  # and not moved
    assert tiny_world.problems("validation", 40, seed=8) != once


def test_problems_are_the_same_in_every_process_and_release():
    """Pinned: a change here changes every benchmark and the base's training set."""
    assert [p.prompt for split in SPLITS for p in tiny_world.problems(split, 2, seed=0)] == PINNED


PINNED = ["74+92+76=", "20+29+85=", "43+14+70=", "25+61+82=", "33+37+43=", "39+32+22="]


def test_demonstrations_mix_modes_as_documented():
    rng = random.Random(0)
    asked = tiny_world.problems("train", 20_000, seed=0)
    pairs = [(p, tiny_world.demonstration(rng, p)) for p in asked]
    modes = Counter(tiny_world.mode(p, r) for p, r in pairs)
    right = Counter(tiny_world.mode(p, r) for p, r in pairs if tiny_world.extract(r) == p.answer)
    assert modes["guess"] / len(pairs) == pytest.approx(0.45, abs=0.015)
    assert right["guess"] / modes["guess"] == pytest.approx(0.40, abs=0.02)
    assert modes["other"] == 0
    assert right["column"] == modes["column"]  # followed faithfully, this method is always right
    assert right["forgot"] == 0
    carries = [p for p, _ in pairs if sum(n % 10 for n in numbers(p)) >= 10]
    assert modes["forgot"] / len(carries) == pytest.approx(0.55 * 0.25, abs=0.015)


@pytest.mark.parametrize(
    ("response", "answer", "mode"),
    [
        ("#97", "97", "guess"),
        ("12,9#102", "102", "column"),
        ("12,9#92", "92", "forgot"),
        ("12,9#999", "999", "column"),
        ("12,9#1#102", "102", "other"),
        ("12,9", None, "other"),
        ("", None, "other"),
        ("12,9#", "", "other"),
    ],
)
def test_reading_a_response(response, answer, mode):
    problem = Problem(id="tiny-12+34+56", prompt="12+34+56=", answer="102")
    assert tiny_world.extract(response) == answer
    assert tiny_world.mode(problem, response) == mode


def test_base_is_small_enough_to_commit():
    assert sum(f.stat().st_size for f in BASE.iterdir()) < 4e6
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    } <= {f.name for f in BASE.iterdir()}


def test_base_tokenizer_round_trips_prompts_and_responses():
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(BASE)
    rng = random.Random(0)
    assert tokenizer.chat_template is None
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    for problem in tiny_world.problems("test", 50, seed=0):
        text = problem.prompt + tiny_world.demonstration(rng, problem)
        ids = tokenizer(text).input_ids
        assert len(ids) == len(text)  # one token per character, nothing added
        assert tokenizer.decode(ids) == text
        assert tokenizer(text + tokenizer.eos_token).input_ids == [*ids, tokenizer.eos_token_id]
        assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_base_is_a_mixture_with_headroom():
    """The base loads, ends its responses, and knows the good method without always using it.

    Its head size is one that vLLM's CPU kernels run.
    """
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(BASE)
    assert model.config.architectures == ["Qwen3ForCausalLM"]
    assert model.config.head_dim in (32, 64)
    assert (model.config.vocab_size, model.config.eos_token_id) == (
        len(tokenizer),
        tokenizer.eos_token_id,
    )

    asked = [p for p in tiny_world.problems("validation", 150, seed=0) for _ in range(4)]
    torch.manual_seed(0)
    prompts = tokenizer([p.prompt for p in asked], return_tensors="pt")
    out = model.generate(**prompts, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=16)[
        :, prompts.input_ids.shape[1] :
    ]
    assert (out == tokenizer.eos_token_id).any(dim=1).float().mean() > 0.99
    pairs = list(zip(asked, tokenizer.decode(out, skip_special_tokens=True), strict=True))
    right = [tiny_world.extract(r) == p.answer for p, r in pairs]
    column = [
        ok for ok, (p, r) in zip(right, pairs, strict=True) if tiny_world.mode(p, r) == "column"
    ]
    assert 0.45 <= sum(right) / len(right) <= 0.60
    assert sum(column) / len(column) >= 0.95
    assert 0.3 <= len(column) / len(pairs) <= 0.6
