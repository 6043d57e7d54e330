"""Cost estimates of a campaign: by hand, against real models, and by how they must scale."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from erpd_core.config import CampaignConfig, RuntimeConfig
from erpd_core.estimates import (
    Counts,
    Lengths,
    Machine,
    ModelShape,
    costs,
    forward_flops,
    planned_work,
    training_flops,
)
from erpd_core.estimates.campaign import PlannedWork
from erpd_core.estimates.machine import Efficiency
from erpd_core.estimates.memory import HEAD_TOKENS, activation_bytes, cache_bytes, training_memory
from erpd_core.estimates.work import Batch
from erpd_core.logprobs import CHUNK, FORWARD_CHUNK

from .helpers import batches

SMALL = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 97,
}
QWEN3_4B = ModelShape(
    layers=36,
    hidden=2560,
    heads=32,
    kv_heads=8,
    head_dim=128,
    intermediate=9728,
    vocab=151936,
    tied=True,
)
BATCH = Batch(prompts=1000, samples=16, prompt=150, response=20_000, spread=0.5, longest=32_768)
GPU = Machine(
    name="x",
    source="made up",
    matrix_flops={"bfloat16": 1e15, "float32": 5e14},
    bandwidth=3e12,
    memory=80e9,
    per_node=8,
    link=4e11,
    network=5e10,
    call=3e-4,
    step=1e-5,
    efficiency=Efficiency(train=0.4, score=0.5, memory=0.7),
)
NODE = RuntimeConfig(
    device="cuda",
    dtype="bfloat16",
    gpus=1,
    samplers=8,
    sampler_gpus=1,
    trainers=8,
    trainer_gpus=1,
    recompute=True,
    token_budget=65_536,
)


def tiny_models() -> list[tuple[str, torch.nn.Module]]:
    return [
        ("llama", LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=False))),
        ("qwen3", Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=16, tie_word_embeddings=True))),
    ]


# ------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("name", "model"), tiny_models(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_shape_has_the_weights_of_the_model_it_is_read_from(name: str, model: torch.nn.Module):
    shape = ModelShape.from_config(model.config.to_dict())
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 2)
    assert shape.parameters == matrices


def test_published_shapes_have_the_weights_that_their_names_say():
    assert QWEN3_4B.parameters == pytest.approx(4.02e9, rel=0.01)


def test_a_mixture_of_experts_and_a_config_of_something_else_are_refused():
    with pytest.raises(ValueError, match="mixture of experts"):
        ModelShape.from_config({**LlamaConfig(**SMALL).to_dict(), "num_local_experts": 8})
    with pytest.raises(ValueError, match="no num_hidden_layers"):
        ModelShape.from_config({"hidden_size": 3})


# --------------------------------------------------------------------------------------------- work


@pytest.mark.parametrize(
    ("name", "model"), tiny_models(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_flops_of_a_pass_are_those_torch_counts(name: str, model: torch.nn.Module):
    """One sequence, every position predicted. Torch counts the full square of attention scores; a
    causal mask needs half of it.
    """
    model.set_attn_implementation("eager")
    length = 40
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, length, dtype=torch.int64))
    shape = ModelShape.from_config(model.config.to_dict())
    square = Counts(tokens=length, pairs=length**2, predicted=length)
    assert counter.get_total_flops() == pytest.approx(forward_flops(shape, square), rel=1e-9)


def test_counts_by_hand():
    """The docstring's example: a prompt of 10 tokens, two responses of 5."""
    from erpd_core.batch import TokenBatch

    batch = TokenBatch.build(
        prompts=[[1] * 10], responses=[[2] * 5, [3] * 5], groups=[0, 0], rewards=[1, 0]
    )
    assert Counts.of(batch) == Counts(tokens=18, pairs=55 + 2 * (10 + 40), predicted=10)


@settings(max_examples=25, deadline=None)
@given(batches())
def test_counts_are_what_the_layout_makes_of_a_batch(batch):
    """Compares with the tokens of `plan`'s rows and the pairs that its masks allow."""
    from erpd_core.layout import plan

    micros = plan(batch, torch.arange(batch.sequences), 1 << 20)
    counts = Counts.of(batch)
    used = {int(group) for group in batch.group_S}
    # a prompt without a response is not laid out
    alone = [len(prompt) for group, prompt in enumerate(batch.prompts) if group not in used]
    assert sum(len(micro.input_T) for micro in micros) == counts.tokens - sum(alone)
    seen = sum(
        int(bucket.mask_BQK.flatten(0, 1)[bucket.output_M].sum())
        for micro in micros
        for bucket in micro.buckets
    )
    assert seen == counts.pairs - sum(length * (length + 1) / 2 for length in alone)


def test_training_is_three_forwards_four_with_recomputation_a_head_more_for_whole_responses():
    shape, counts = QWEN3_4B, BATCH.counts()
    forward = forward_flops(shape, counts)
    head = 2 * shape.hidden * shape.vocab * counts.predicted
    assert training_flops(shape, counts) == pytest.approx(3 * forward)
    assert training_flops(shape, counts, sequence_level=True) == pytest.approx(3 * forward + head)
    assert training_flops(shape, counts, recompute=True) == pytest.approx(4 * forward - head)


def test_expected_counts_are_those_of_a_batch_of_such_lengths():
    """Lengths 10 and 30 have mean 20 and spread 0.5. Random minibatches share prompts as often as
    expected by chance.
    """
    from erpd_core.batch import TokenBatch

    batch = TokenBatch.build(
        prompts=[[1] * 7] * 40,
        responses=[[2] * length for length in (10, 30)] * 40,
        groups=[n // 2 for n in range(80)],
        rewards=[0] * 80,
    )
    expected = Batch(prompts=40, samples=2, prompt=7, response=20, spread=0.5, longest=30)
    exact = Counts.of(batch)
    assert (
        expected.counts().tokens == exact.tokens and expected.counts().predicted == exact.predicted
    )
    assert expected.counts().pairs == pytest.approx(exact.pairs, rel=0.03)
    order = torch.Generator().manual_seed(0)
    drawn = [
        len({int(group) for group in batch.group_S[torch.randperm(80, generator=order)[:20]]})
        for _ in range(400)
    ]
    assert expected.part(20).tokens - 20 * 19 == pytest.approx(
        7 * sum(drawn) / len(drawn), rel=0.05
    )


# ------------------------------------------------------------------------------------------- memory


def test_what_is_counted_elsewhere_is_what_it_is_there():
    assert HEAD_TOKENS == {"train": CHUNK, "score": FORWARD_CHUNK}


def test_states_are_sixteen_bytes_a_weight_divided_by_the_trainers():
    whole = training_memory(QWEN3_4B, NODE, BATCH, 1) | {}
    shared = training_memory(QWEN3_4B, NODE, BATCH, 8)
    states = ("weights", "gradients", "AdamW's moments")
    assert sum(shared[name] for name in states) == pytest.approx(16 * QWEN3_4B.parameters / 8)
    assert sum(whole[name] for name in states) == pytest.approx(8 * QWEN3_4B.parameters), (
        "a single trainer trains the bfloat16 weights directly"
    )
    assert not training_memory(
        QWEN3_4B, NODE.model_copy(update={"offload": True}), BATCH, 8
    ).keys() & set(states)


def test_recomputation_keeps_what_goes_into_each_layer_and_one_layer_whole():
    kept = training_memory(QWEN3_4B, NODE, BATCH, 8)["activations"]
    everything = training_memory(QWEN3_4B, NODE.model_copy(update={"recompute": False}), BATCH, 8)[
        "activations"
    ]
    layer = activation_bytes(QWEN3_4B, "bfloat16") * NODE.token_budget
    assert everything == pytest.approx(36 * layer)
    assert kept == pytest.approx(layer + 36 * 2 * 2560 * NODE.token_budget)


def test_activations_are_what_autograd_keeps():
    """The estimate is within a quarter of the tensors that a real layer saves for its backward
    pass. Each tensor counts once; weights do not count.
    """
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        num_hidden_layers=1,
    )
    config._attn_implementation = "sdpa"
    layer, rotary, tokens = LlamaDecoderLayer(config, 0), LlamaRotaryEmbedding(config), 256
    weights = {parameter.data_ptr() for parameter in layer.parameters()}
    saved: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.data_ptr() not in weights:
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    hidden = torch.randn(1, tokens, 576)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        outputs = layer(hidden, position_embeddings=rotary(hidden, torch.arange(tokens)[None]))
    shape = ModelShape.from_config({**config.to_dict(), "vocab_size": 1})
    assert sum(saved.values()) / tokens == pytest.approx(
        activation_bytes(shape, "float32"), rel=0.25
    )
    assert outputs is not None


def test_a_cache_is_two_values_a_layer_and_key_head_and_a_linear_layers_state_does_not_grow():
    assert cache_bytes(QWEN3_4B, "bfloat16", 1000) == 1000 * 2 * 36 * 8 * 128 * 2
    from erpd_core.estimates import LinearAttention

    mixed = QWEN3_4B.model_copy(
        update={
            "linear": LinearAttention(
                layers=27, key_heads=16, value_heads=32, key_dim=128, value_dim=128
            )
        }
    )
    assert (
        cache_bytes(mixed, "bfloat16", 2000) - cache_bytes(mixed, "bfloat16", 1000)
        == 1000 * 2 * 9 * 8 * 128 * 2
    )


# --------------------------------------------------------------------------------------------- time


def task(**changes) -> PlannedWork:
    base = {
        "iteration": 1,
        "phase": "teacher",
        "what": "x",
        "kind": "train",
        "batch": BATCH,
        "steps": 10,
        "minibatch": 1024,
    }
    return PlannedWork.model_validate(base | changes)


def seconds(work: PlannedWork, runtime: RuntimeConfig = NODE, machine: Machine = GPU) -> float:
    return costs([work], QWEN3_4B, runtime, machine)[0].seconds


def test_a_large_models_training_takes_its_flops_over_the_rate_and_a_little_more():
    counts = BATCH.part(1024)
    least = 10 * training_flops(QWEN3_4B, counts, recompute=True) / (0.4e15 * 8)
    assert least < seconds(task()) < 1.3 * least


def test_time_grows_with_steps_and_shrinks_with_trainers():
    assert seconds(task(steps=20)) == pytest.approx(2 * seconds(task()))
    alone = seconds(task(), NODE.model_copy(update={"trainers": 1}))
    assert 7 < alone / seconds(task()) < 8.5


def test_a_slow_network_between_nodes_shows():
    sixteen = NODE.model_copy(update={"trainers": 16})
    slow = costs([task()], QWEN3_4B, sixteen, GPU.model_copy(update={"network": 1e8}))[0]
    assert slow.bound == "network" and slow.seconds > 2 * seconds(task(), sixteen)


SAMPLE = task(phase="rollouts", kind="sample", shard=8)


def test_sampling_is_bound_by_memory_and_not_quicker_for_a_faster_processor():
    cost = costs([SAMPLE], QWEN3_4B, NODE, GPU)[0]
    assert cost.bound == "memory"
    faster = GPU.model_copy(update={"matrix_flops": {"bfloat16": 1e17, "float32": 1e17}})
    assert seconds(SAMPLE, machine=faster) > 0.8 * cost.seconds
    assert seconds(SAMPLE, machine=GPU.model_copy(update={"bandwidth": 6e12})) < 0.6 * cost.seconds


def test_sampling_reads_the_weights_once_a_step_and_the_cache_of_every_token():
    """One response to a prompt of one token, by hand: weights x steps + cache x positions."""
    alone = Batch(prompts=1, samples=1, prompt=1, response=1000, spread=0.0, longest=1000)
    cost = costs([task(kind="sample", shard=1, batch=alone)], QWEN3_4B, NODE, GPU)[0]
    moved = 1000 * 2 * QWEN3_4B.parameters + sum(
        cache_bytes(QWEN3_4B, "bfloat16", 1 + n) for n in range(1000)
    )
    reading = moved / (0.7 * 3e12)
    assert reading < cost.seconds < reading * 1.1 + 1000 * 36 * 1e-5


def test_a_shard_lasts_as_long_as_its_longest_response():
    short = BATCH.model_copy(update={"samples": 1, "response": 1000.0, "longest": 1000.0})
    long = short.model_copy(update={"longest": 32_000.0})
    assert seconds(SAMPLE.model_copy(update={"batch": long})) > 5 * seconds(
        SAMPLE.model_copy(update={"batch": short})
    )


def test_scorers_share_the_shards_and_the_last_shard_is_waited_for():
    """125 shards of 8 prompts: the busiest of 8 scorers has 16, and of 200 only 125 have one."""
    score = task(phase="score", kind="score", shard=8)
    alone = seconds(score)
    for scorers, busiest in ((8, 16), (200, 1)):
        assert seconds(score, NODE.model_copy(update={"scorers": scorers})) == pytest.approx(
            alone * busiest / 125
        )
    assert costs([score], QWEN3_4B, NODE.model_copy(update={"scorers": 200}), GPU)[0].devices == 125


def test_an_online_stage_is_one_process_and_stores_no_rows():
    online = costs([SAMPLE.model_copy(update={"online": True})], QWEN3_4B, NODE, GPU)[0]
    assert (
        online.devices == 1
        and online.disk == 0
        and costs([SAMPLE], QWEN3_4B, NODE, GPU)[0].devices == 8
    )


# ---------------------------------------------------------------------------------------- campaigns


def config(**changes) -> CampaignConfig:
    tree = {
        "name": "x",
        "model": {"kind": "embedded"},
        "prompts": {"kind": "tiny", "count": 32},
        "evaluation": {
            "validation": {"kind": "tiny", "count": 8},
            "benchmarks": {"test": {"kind": "tiny", "count": 16}},
        },
        "teacher": {"steps": 20, "keep": [10], "minibatch": 64},
    }
    return CampaignConfig.model_validate(tree | changes)


def done(**changes) -> list[PlannedWork]:
    return planned_work(
        config(**changes),
        {"prompts": 32, "validation": 8, "test": 16},
        Lengths(response=10, source="made up"),
    )


def names(tasks: list[PlannedWork]) -> list[str]:
    return [f"{work.phase}: {work.what} x{work.repeat}" for work in tasks if work.iteration]


def test_an_iteration_of_strategy_1_in_order():
    assert names(done()) == [
        "rollouts: sample prompts x1",
        "score: score under old x1",
        "teacher: train teacher: sapo x1",
        *["validation: sample teacher: validation x2"] * 4,
        "validation: sample teacher against start: validation x1",
        "score: score sides of the signals x1",
        "distill: train student x1",
        "evaluate: sample benchmarks x2",
        "evaluate: score benchmarks x4",
    ]


def test_strategy_2_trains_the_unlearned_run_and_not_the_teacher():
    fixed = {"mode": "fixed", "fixed": ["S2"]}
    planned = names(done(decision=fixed, weak_teacher={"steps": 30, "unlearn_step": 5}))
    assert "teacher: train weak: mse x1" in planned and not any(
        "teacher: sapo" in line for line in planned
    )
    assert "score: score sides of the signals x2" in planned
    always = names(
        done(decision={**fixed, "teacher": "always"}, weak_teacher={"steps": 30, "unlearn_step": 5})
    )
    assert "teacher: train teacher: sapo x1" in always


def test_a_run_that_starts_from_another_brings_that_one_along():
    runs = {"recovered": {"loss": {"kind": "sft"}, "init": "unlearned", "steps": 5}}
    signal = [{"signal": {"numerator": "recovered", "denominator": "unlearned"}}]
    tasks = done(
        decision={"mode": "fixed", "fixed": ["S2"]},
        weak_teacher={"steps": 30, "unlearn_step": 5},
        runs=runs,
        distill={"S2": signal},
    )
    assert [work.what for work in tasks if work.kind == "train"] == [
        "train weak: mse",
        "train recovered: sft",
        "train student",
    ]


def test_ppo_fits_a_critic_first_and_online_stages_sample_at_each_step():
    assert [
        work.what for work in done(teacher={"loss": {"kind": "ppo"}}) if work.phase == "teacher"
    ] == [
        "train teacher: critic",
        "score teacher: values",
        "train teacher: ppo",
    ]
    online = done(
        decision={"mode": "fixed", "fixed": ["online"]},
        online={"steps": 7, "prompts_per_step": 4, "sampling": {"samples": 2}},
    )
    assert [
        (work.kind, work.repeat or work.steps, work.online)
        for work in online
        if work.phase == "online"
    ] == [
        ("sample", 7, True),
        ("score", 14, True),
        ("train", 1, True),
    ]


FULL = {
    "validation": {"kind": "tiny", "count": 8},
    "benchmarks": {"test": {"kind": "tiny", "count": 16}},
    "selection": {"kind": "full"},
}
KEPT = {"select": "validation", "keep": [2, 5], "steps": 9}


def test_a_full_selection_measures_every_kept_student():
    planned = names(done(distill=KEPT, evaluation=FULL))
    assert "validation: sample students: validation x3" in planned
    assert "validation: score KL of teacher and students x8" in planned


def test_a_race_is_taken_to_halve_its_field_down_to_two():
    """Four rounds of four samples, half of 32; a KL budget is measured on the first."""
    tasks = done(distill={**KEPT, "keep": [1, 2, 3, 4], "kl_budget": 0.1})
    rounds = [work for work in tasks if work.what == "sample students: validation"]
    assert [work.repeat for work in rounds] == [5, 3, 2, 2]
    assert {work.batch.samples for work in rounds} == {4}
    kl = next(work for work in tasks if work.what == "score KL of teacher and students")
    assert (kl.repeat, kl.batch.samples) == (12, 4), "two columns of five students and the teacher"
    unlimited = names(done(distill=KEPT))
    assert not any("KL of" in line for line in unlimited)


def test_a_student_is_validated_for_the_next_iteration_alone():
    last, earlier = names(done()), names(done(iterations=2))
    sampling = "validation: sample student: validation x1"
    assert sampling not in last and sampling in earlier


def test_what_stays_on_disk():
    """The disk keeps rows, columns of two float32 per token, and the kept policies."""
    tasks = done()
    cost_of = {
        cost.task.what: cost
        for cost in costs(tasks, QWEN3_4B, NODE.model_copy(update={"trainers": 1}), GPU)
    }
    assert cost_of["train teacher: sapo"].disk == 2 * 2 * QWEN3_4B.parameters, (
        "two kept steps in bfloat16"
    )
    assert cost_of["score under old"].disk == 8 * 32 * 16 * 10
    assert cost_of["sample prompts"].disk == 4 * 32 * 16 * 10
