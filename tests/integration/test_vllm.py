"""vLLM's CPU build on the embedded tiny model: samples, seeds, ends, log-probs, weight updates.

The tests share one engine; `test_vllm_flows.py` has those that need separate processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import World
from transformers import AutoModelForCausalLM
from vllm_lab import (
    NEEDS_VLLM,
    PLAIN,
    PROMPTS,
    RUNTIME,
    distance,
    disturbed,
    first,
    sample,
    saved,
    whole,
)

from erpd_core.config import RuntimeConfig, SamplingConfig
from erpd_core.optimize import score
from tasks.engines import Sample, check_engine, engine_name
from tasks.engines.hf import TransformersEngine
from tasks.models.policy import load_policy
from tasks.rollouts import seed_of

pytestmark = [pytest.mark.slow, NEEDS_VLLM]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Uses one thread: the model is too small for more, and other work then slows it least."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(world: World) -> Path:
    return world.store.path(world.base.id)


@pytest.fixture(scope="module")
def vllm(folder: Path) -> Iterator[Any]:
    from tasks.engines.vllm import VLLMEngine

    engine = VLLMEngine(folder, RUNTIME)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def transformers(folder: Path) -> TransformersEngine:
    return TransformersEngine(folder, RUNTIME)


# ---------------------------------------------------------------------------- the same distribution


@pytest.mark.parametrize(
    "sampling",
    [PLAIN, PLAIN.model_copy(update={"temperature": 0.6}), PLAIN.model_copy(update={"top_p": 0.8})],
    ids=["plain", "temperature", "top_p"],
)
def test_both_engines_sample_the_same_distribution(
    vllm: Any, transformers: TransformersEngine, sampling: SamplingConfig
):
    """Compares frequencies of whole responses and of first tokens, for 8 x 1,000 samples with other
    seeds per engine. With random seeds, 4 standard deviations of chi-square would occur by chance
    in one of 30,000 runs.
    """
    ours, theirs = sample(vllm, 1000, sampling), sample(transformers, 1000, sampling, seed=1)
    assert abs(distance(ours, theirs, whole)) < 4
    assert abs(distance(ours, theirs, first)) < 4


def test_the_comparison_sees_a_small_difference(vllm: Any, transformers: TransformersEngine):
    """A temperature of 1.3 instead of 1 gives about 11 standard deviations, one of 1.2 about 5."""
    ours, theirs = (
        sample(vllm, 1000),
        sample(transformers, 1000, PLAIN.model_copy(update={"temperature": 1.3}), seed=1),
    )
    assert distance(ours, theirs, whole) > 8


def test_the_trainer_agrees_with_vllm_on_the_log_probs_of_its_samples(
    world: World, vllm: Any, folder: Path
):
    """They agree to 1e-4 nats per token in float32 (largest seen: 3e-5), with and without prompts
    shared through the prefix cache.
    """
    from vllm import SamplingParams

    from erpd_core.batch import TokenBatch

    prompts = [
        vllm.encode(prompt)
        for prompt in [*PROMPTS, PROMPTS[0] + PROMPTS[1] + PROMPTS[2] + PROMPTS[3]]
    ]
    outputs = []
    for row, prompt in enumerate(prompts):
        for number in range(8):
            params = SamplingParams(
                seed=number,
                temperature=1.0,
                max_tokens=24,
                stop_token_ids=vllm.stop_ids,
                ignore_eos=True,
                logprobs=0,
                detokenize=False,
            )
            vllm._engine.add_request(f"{row}/{number}", vllm._render(prompt), params)
    while vllm._engine.has_unfinished_requests():
        outputs += [output for output in vllm._engine.step() if output.finished]
    outputs.sort(key=lambda output: [int(part) for part in output.request_id.split("/")])
    responses = [output.outputs[0] for output in outputs]
    theirs_N = torch.tensor(
        [
            row[token].logprob
            for response in responses
            for token, row in zip(response.token_ids, response.logprobs, strict=True)
        ]
    )
    batch = TokenBatch.build(
        prompts=prompts,
        responses=[list(response.token_ids) for response in responses],
        groups=[int(output.request_id.split("/")[0]) for output in outputs],
        rewards=[0] * len(responses),
    )
    ours_N = score(load_policy(folder, RUNTIME), batch, 4096)[0]
    assert float((ours_N - theirs_N).abs().max()) < 1e-4
    assert float(theirs_N.std()) > 0.1, "the log-probs are not all alike"


# ----------------------------------------------------------------------------------- seeds and ends


def test_a_response_belongs_to_its_seed(vllm: Any):
    """A response depends on its seed, not on the batch or its order. Logits change by 1e-6 with the
    batch, so one prompt's samples may differ.
    """
    together = sample(vllm, 8)
    assert sample(vllm, 8) == together
    assert len({tuple(response.tokens) for response in together[0]}) >= 3
    assert sample(vllm, 8, seed=1) != together
    few = sample(vllm, 3, prompts=PROMPTS[::-1])[::-1]
    assert sum(a != b[:3] for a, b in zip(few, together, strict=True)) <= 1


def test_seeds_of_64_bits_are_taken(vllm: Any):
    prompt = vllm.encode(PROMPTS[0])
    seeds = [2**64 - 1, 2**63 + 12345, 2**63 - 1, 0]
    responses = vllm.sample([prompt], [seeds * 8], PLAIN, lambda index, sample: None)
    assert all(responses[row : row + 4] == responses[:4] for row in range(0, 32, 4))


def test_ends_are_those_of_the_transformers_engine(vllm: Any, transformers: TransformersEngine):
    """A response ends with the stop token or is truncated at the limit. Each is reported once, as
    soon as it is complete.
    """
    short = PLAIN.model_copy(update={"max_new_tokens": 6, "temperature": 2.0})
    shares = []
    for engine in (vllm, transformers):
        reported: dict[int, Sample] = {}
        seeds = [[seed_of(3, prompt, number) for number in range(250)] for prompt in PROMPTS]
        responses = engine.sample(
            [engine.encode(prompt) for prompt in PROMPTS], seeds, short, reported.__setitem__
        )
        assert [reported[index] for index in range(len(responses))] == responses and list(
            reported
        ) != sorted(reported)
        for response in responses:
            stops = [
                position
                for position, token in enumerate(response.tokens)
                if token in engine.stop_ids
            ]
            assert stops == ([] if response.truncated else [len(response.tokens) - 1])
            assert len(response.tokens) == 6 or not response.truncated
        assert any(
            len(response.tokens) == 6 and not response.truncated for response in responses
        ), "a stop token in the last position is not a truncation"
        shares.append(sum(response.truncated for response in responses) / len(responses))
    assert 0.05 < shares[0] < 0.95 and abs(shares[0] - shares[1]) < 4 * math.sqrt(0.5 / 2000)


def test_every_stop_token_of_the_generation_config_ends_a_response(
    vllm: Any, transformers: TransformersEngine
):
    """vLLM receives the stop tokens with each request. Here are two more, as a generation config
    may list them.
    """
    more = sorted({*vllm.stop_ids, *vllm.encode("7"), *vllm.encode("3")})
    kept = vllm.stop_ids
    vllm.stop_ids = more
    try:
        responses = [response for row in sample(vllm, 64) for response in row]
    finally:
        vllm.stop_ids = kept
    assert {response.tokens[-1] for response in responses if not response.truncated} == set(more)
    assert all(set(response.tokens[:-1]).isdisjoint(more) for response in responses)


def test_a_response_ends_where_the_context_does(vllm: Any):
    prompt = (vllm.encode(PROMPTS[0]) * 99)[:250]
    hot = PLAIN.model_copy(update={"temperature": 2.0})
    responses = vllm.sample([prompt], [list(range(64))], hot, lambda index, sample: None)
    assert {len(response.tokens) for response in responses if response.truncated} == {6}, (
        "250 and 6 are the model's 256"
    )
    with pytest.raises(ValueError, match="256 tokens leaves no room in the model's context of 256"):
        vllm.sample([prompt + prompt[:6]], [[1]], PLAIN, lambda index, sample: None)


@pytest.mark.parametrize("temperature", [0.005, 2.5])
def test_a_temperature_that_vllm_would_move_or_refuse_is_refused(vllm: Any, temperature: float):
    with pytest.raises(
        ValueError, match=r"temperature from 0\.01 to 2, not at .* use runtime\.engine=transformers"
    ):
        sample(vllm, 1, PLAIN.model_copy(update={"temperature": temperature}))


def test_a_batch_broken_off_leaves_nothing_behind(vllm: Any):
    before = sample(vllm, 4)

    def refuse(index: int, sample: Sample) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        vllm.sample(
            [vllm.encode(prompt) for prompt in PROMPTS], [[1, 2]] * len(PROMPTS), PLAIN, refuse
        )
    assert not vllm._engine.has_unfinished_requests()
    assert sample(vllm, 4) == before


def test_text_is_read_and_written_alike(vllm: Any, transformers: TransformersEngine):
    for prompt in PROMPTS:
        tokens = vllm.encode(prompt)
        assert tokens == transformers.encode(prompt) and vllm.decode(tokens) == transformers.decode(
            tokens
        )


def test_a_second_engine_in_the_process_is_refused(vllm: Any, folder: Path):
    from tasks.engines.vllm import VLLMEngine

    with pytest.raises(RuntimeError, match="open in this process already"):
        VLLMEngine(folder, RUNTIME)
    assert sample(vllm, 1), "the first engine still works"


def test_the_process_is_left_as_it_was(vllm: Any):
    """vLLM's CPU build would set LD_PRELOAD for children, seed the process and disable
    `torch.set_num_threads`.
    """
    import os

    assert "LD_PRELOAD" not in os.environ and "LOCAL_WORLD_SIZE" not in os.environ
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------ weights


def test_weights_are_swapped_in_place_and_back(
    vllm: Any, folder: Path, transformers: TransformersEngine, tmp_path: Path
):
    before = sample(vllm, 300)
    model, own = (
        disturbed(folder),
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
    )
    try:
        vllm.load_weights(model.named_parameters())
        after = sample(vllm, 300)
    finally:
        vllm.load_weights(own.named_parameters())
    assert sample(vllm, 300) == before
    expected = sample(
        TransformersEngine(saved(model, folder, tmp_path / "new"), RUNTIME), 300, seed=1
    )
    assert distance(after, before, first) > 20 > 4 > abs(distance(after, expected, first))


def test_weights_that_are_not_all_of_the_model_s_are_refused(vllm: Any, folder: Path):
    own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"model\.norm\.weight"):
        vllm.load_weights(
            (name, weight) for name, weight in own.named_parameters() if name != "model.norm.weight"
        )
    vllm.load_weights(own.named_parameters())


# --------------------------------------------------------------------------------------- the choice


def test_auto_is_transformers_on_a_cpu_and_a_cpu_build_is_not_asked_for_a_gpu():
    assert (
        engine_name(RuntimeConfig(device="cpu")) == "transformers"
        and engine_name(RUNTIME) == "vllm"
    )
    check_engine(RUNTIME)
    with pytest.raises(ValueError, match="the vllm installed here samples on cpu, not on cuda"):
        check_engine(RuntimeConfig(engine="vllm", device="cuda"))
