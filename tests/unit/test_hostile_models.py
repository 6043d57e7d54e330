"""Hostile checkpoints: one that would run code, leave its folder or never end is refused.

The refusal is one line, and no code of the checkpoint runs. A trap that is sprung writes the file
`canary`.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import context
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from erpd_core.config import ChatConfig, DirectoryModel, HubModel, PackagedModel, RuntimeConfig
from tasks.engines.vllm import engine_arguments
from tasks.execution.stage import get_or_compute
from tasks.models import chat, model_files
from tasks.models.import_policy import ASSETS, import_policy
from tasks.models.model_files import TRUST, trusts_code
from tasks.models.policy import load_policy, load_tokenizer, save_policy
from tasks.store import Store

CPU = RuntimeConfig(device="cpu")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded base, to be made hostile."""
    return Path(shutil.copytree(ASSETS / "tiny-base", tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    tree = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(tree | values))


def code(canary: Path) -> str:
    """Source of a model's module that writes the canary and is ordinary otherwise."""
    return f"""
from transformers import Qwen3Config, Qwen3ForCausalLM
open({str(canary)!r}, "w").close()
class OwnConfig(Qwen3Config):
    model_type = "own"
class OwnModel(Qwen3ForCausalLM):
    config_class = OwnConfig
"""


def own_code(folder: Path, canary: Path, model_type: str = "own") -> None:
    (folder / "modeling_own.py").write_text(code(canary))
    classes = {
        "AutoConfig": "modeling_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnModel",
    }
    change(
        folder / "config.json", model_type=model_type, architectures=["OwnModel"], auto_map=classes
    )


class Trap:
    """Unpickling it writes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


# ------------------------------------------------------------------------------------------ refused


def pickled(folder: Path, canary: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(canary)))
    (folder / "model.safetensors").unlink()


def pickle_in_disguise(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap(canary)))


def endless_header(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


def truncated(folder: Path, canary: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def gguf_alone(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.gguf")


def linked_out(name: str) -> Callable[[Path, Path], None]:
    def trap(folder: Path, canary: Path) -> None:
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return trap


def index_out(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    shutil.copy(
        folder.parent / "elsewhere.safetensors", folder / "model-00001-of-00002.safetensors"
    )
    change(
        folder / "model.safetensors.index.json",
        weight_map={"lm_head.weight": "../elsewhere.safetensors"},
    )


def index_of_a_list(folder: Path, canary: Path) -> None:
    change(folder / "model.safetensors.index.json", weight_map=["model.safetensors"])


def tokenizer_code(folder: Path, canary: Path) -> None:
    (folder / "tokenization_own.py").write_text(code(canary))
    change(folder / "config.json", model_type="own")
    change(
        folder / "tokenizer_config.json",
        tokenizer_class="Own",
        auto_map={"AutoTokenizer": ["tokenization_own.Own", None]},
    )


def broken_json(text: str) -> Callable[[Path, Path], None]:
    return lambda folder, canary: (folder / "config.json").write_text(text) and None


def absurd(**sizes: Any) -> Callable[[Path, Path], None]:
    return lambda folder, canary: change(folder / "config.json", **sizes)


REFUSED: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "pickled weights": (pickled, "pickled weights are never loaded"),
    "a pickle called safetensors": (pickle_in_disguise, "not a complete safetensors file"),
    "a header of exabytes": (endless_header, "not a complete safetensors file"),
    "truncated weights": (truncated, "not a complete safetensors file"),
    "gguf alone": (gguf_alone, "no .safetensors weights"),
    "code for the model": (own_code, "model.trust_code"),
    "code for the tokenizer": (tokenizer_code, "model.trust_code"),
    "weights linked from elsewhere": (linked_out("model.safetensors"), "link out of"),
    "a tokenizer linked from elsewhere": (linked_out("tokenizer.json"), "link out of"),
    "an index that leads out": (index_out, "which is not in"),
    "an index that is a list": (index_of_a_list, "not a mapping of tensors"),
    "a vocabulary of a billion": (absurd(vocab_size=10**9), "vocab_size 1e+09"),
    "a hidden size of a billion": (absurd(hidden_size=10**9), "hidden_size"),
    "a billion layers": (absurd(num_hidden_layers=10**9), "num_hidden_layers"),
    "a billion layers of text": (
        absurd(text_config={"num_hidden_layers": 10**9}),
        "num_hidden_layers",
    ),
    "a config that is a list": (broken_json("[]"), "a list, not an object"),
    "a config of half a line": (broken_json('{"model_type": '), "not JSON"),
    "a config without bottom": (broken_json("[" * 100_000), "not JSON"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_line_and_nothing_of_it_runs(name: str, folder: Path, canary: Path):
    trap, expected = REFUSED[name]
    trap(folder, canary)
    with pytest.raises(
        ValueError, match=expected.replace(".", r"\.").replace("+", r"\+")
    ) as caught:
        import_policy(DirectoryModel(path=str(folder)))
    assert (
        str(caught.value).startswith("model: ")
        and "\n" not in str(caught.value)
        and len(str(caught.value)) < 600
    )
    assert not canary.exists()


# ---------------------------------------------------------------------- tiny configs of huge models

NEO = {"model_type": "gpt_neo", "num_layers": 1, "hidden_size": 16}
GPTJ = {
    "model_type": "gptj",
    "n_layer": 1,
    "n_embd": 64,
    "n_head": 4,
    "rotary_dim": 16,
    "vocab_size": 16,
}
BART = {
    "model_type": "bart",
    "d_model": 16,
    "vocab_size": 16,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 16,
}
BOTTOMLESS: dict[str, tuple[dict[str, Any], str]] = {
    "fifty million attentions": (
        NEO | {"attention_types": [[["global"], 50_000_000]]},
        "attention_types 5e+07",
    ),
    "a thousand thousand attentions": (
        NEO | {"attention_types": [[["global"] * 1000, 1000]]},
        "attention_types 1e+06",
    ),
    "attentions and fewer than none": (
        NEO | {"attention_types": [[["global"], 10**7], [["local"], -(10**7)]]},
        "attention_types 1e+07",
    ),
    "attentions of nothing": (
        NEO | {"attention_types": [[[], 1000]] * 100},
        "attention_types 100000",
    ),
    "400 layers": (BART | {"decoder_layers": 400}, "decoder_layers 400"),
    "ten million layers": (BART | {"decoder_layers": 10**7}, "decoder_layers 1e+07"),
    "ten million layers of a part": (
        BART | {"audio_config": {"encoder_layers": 10**7}},
        "encoder_layers 1e+07",
    ),
    "a table of positions": (GPTJ | {"n_positions": 8_000_000}, "488 MiB besides the weights"),
    "a number of 400 digits": (BART | {"num_beam_groups": 10**400}, "num_beam_groups 1e+99"),
    "layers by a pattern": (
        {"model_type": "nemotron_h", "hybrid_override_pattern": "M*" * 2000},
        "has more than 10000 parts",
    ),
}


@pytest.mark.parametrize("name", BOTTOMLESS)
def test_a_tiny_config_takes_neither_time_nor_memory(name: str, folder: Path):
    config, expected = BOTTOMLESS[name]
    # imports transformers, which must not count in the measurement below
    import_policy(DirectoryModel(path=str(folder)))
    (folder / "config.json").write_text(json.dumps(config))
    began, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=expected.replace("+", r"\+")) as caught:
        import_policy(DirectoryModel(path=str(folder)))
    assert (
        str(caught.value).startswith("model: ")
        and "\n" not in str(caught.value)
        and len(str(caught.value)) < 600
    )
    assert time.process_time() - began < (10 if "pattern" in name else 1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100 << 10


def test_an_axis_of_a_tensor_without_numbers_makes_no_width_right(folder: Path):
    weights = load_file(folder / "model.safetensors")
    save_file(
        weights | {"wide": torch.zeros(10**9, 0)}, folder / "model.safetensors", {"format": "pt"}
    )
    change(folder / "config.json", hidden_size=10**9)
    with pytest.raises(ValueError, match="hidden_size 1e"):
        import_policy(DirectoryModel(path=str(folder)))


REAL: dict[str, dict[str, Any]] = {
    "Qwen3, a million tokens": {
        "max_position_embeddings": 1_010_000,
        "rope_theta": 10_000_000,
        "max_window_layers": 94,
    },
    "Llama 3.1": {
        "vocab_size": 128256,
        "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192},
        "rope_theta": 500000,
    },
    "Llama 4": {
        "text_config": {"max_position_embeddings": 10_485_760, "attention_chunk_size": 8192},
        "boi_token_index": 200080,
    },
    "Gemma 3n": {
        "vocab_size_per_layer_input": 262144,
        "num_kv_shared_layers": 15,
        "image_token_id": 262145,
        "hidden_size_per_layer_input": 256,
    },
    "DeepSeek V3": {
        "n_routed_experts": 256,
        "num_nextn_predict_layers": 1,
        "num_hidden_layers": 61,
        "max_position_embeddings": 163840,
    },
    "Qwen3.5": {
        "text_config": {
            "full_attention_interval": 4,
            "layer_types": ["linear_attention"] * 45,
            "mtp_num_hidden_layers": 1,
        }
    },
    "GPT-J": {
        "n_positions": 2048,
        "n_layer": 28,
        "n_inner": None,
        "summary_proj_to_labels": True,
        "vocab_size": 50400,
    },
    "Phi 4 multimodal": {"audio_config": {"depthwise_separable_out_channel": 1024}},
    "Nemotron": {
        "intermediate_size": 73728,
        "hidden_size": 18432,
        "num_hidden_layers": 96,
        "hybrid_override_pattern": "M-M*" * 20,
    },
    "Qwen2.5 1M": {
        "dual_chunk_attention_config": {"chunk_size": 262144, "local_size": 8192},
        "model_max_length": 10**30,
    },
}


@pytest.mark.parametrize("name", REAL)
def test_numbers_of_models_in_use_are_not_too_large(name: str, folder: Path):
    model_files._check_sizes(folder, REAL[name], [(300_000, 18432)] * 800)


# ---------------------------------------------------------------------------- imported, but not run


def imported(folder: Path, tmp_path: Path, **more: Any) -> Path:
    """Import the model; returns its folder in the store."""
    here = context(Store(tmp_path / "store"))
    return here.store.path(
        get_or_compute(import_policy(DirectoryModel(path=str(folder), **more)), here).id
    )


def test_code_of_a_model_that_the_library_knows_is_left_behind_and_not_needed(
    folder: Path, tmp_path: Path, canary: Path
):
    own_code(
        folder, canary, model_type=json.loads((folder / "config.json").read_text())["model_type"]
    )
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(canary)))
    (folder / TRUST).write_text('{"code": "me"}')
    change(
        folder / "adapter_config.json", base_model_name_or_path="somebody/else", peft_type="LORA"
    )
    policy = imported(folder, tmp_path)
    assert type(load_policy(policy, CPU).model).__module__.startswith("transformers.models.")
    load_tokenizer(policy)
    assert not [
        path.name
        for path in policy.iterdir()
        if path.suffix in (".py", ".bin") or path.name in (TRUST, "adapter_config.json")
    ]
    assert not canary.exists() and not trusts_code(policy)
    assert engine_arguments(policy, CPU)["trust_remote_code"] is False
    assert engine_arguments(policy, CPU)["load_format"] == "safetensors"


def test_code_runs_where_the_recipe_names_it_and_goes_on_with_what_is_trained(
    folder: Path, tmp_path: Path, canary: Path
):
    own_code(folder, canary)
    policy = imported(folder, tmp_path, trust_code=str(folder))
    assert json.loads((policy / TRUST).read_text()) == {"code": str(folder)}
    assert not canary.exists(), "importing does not run it"
    model = load_policy(policy, CPU)
    assert canary.exists() and type(model.model).__name__ == "OwnModel"
    child = tmp_path / "child"
    child.mkdir()
    save_policy(model, child, policy)
    assert trusts_code(child) and (child / "modeling_own.py").exists()
    assert engine_arguments(child, CPU)["trust_remote_code"] is True


def test_trust_is_part_of_what_a_policy_is_and_is_printed_where_it_is_given(folder: Path):
    plain, trusting = (
        DirectoryModel(path=str(folder)),
        DirectoryModel(path=str(folder), trust_code=str(folder)),
    )
    assert import_policy(plain).identity() != import_policy(trusting).identity()
    assert trusting.model_dump(mode="json")["trust_code"] == str(folder)
    assert "trust_code" not in plain.model_dump(mode="json"), (
        "campaigns without it keep their identities"
    )


def test_code_of_another_repository_is_not_covered(folder: Path, canary: Path):
    own_code(folder, canary)
    change(folder / "config.json", auto_map={"AutoConfig": "somebody/else--modeling_own.OwnConfig"})
    with pytest.raises(ValueError, match="another repository"):
        import_policy(DirectoryModel(path=str(folder), trust_code=str(folder)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"path": "/models/a", "trust_code": "/models/b"}, "name exactly the model"),
        ({"path": "/models/a", "trust_code": "yes"}, "name exactly the model"),
        ({"id": "a/b", "trust_code": "a/b"}, "needs revision, a commit"),
        ({"id": "a/b", "trust_code": "a/b", "revision": "main"}, "needs revision, a commit"),
        ({"id": "a/b", "trust_code": "a/c", "revision": "0" * 40}, "name exactly the model"),
    ],
)
def test_trust_names_the_model_itself_and_of_the_hub_one_commit(given: dict[str, str], said: str):
    with pytest.raises(ValidationError, match=said):
        (HubModel if "id" in given else DirectoryModel)(**given)
    HubModel(id="a/b", trust_code="a/b", revision="0" * 40)


def test_links_within_the_hubs_cache_are_what_it_is_made_of(folder: Path, tmp_path: Path):
    repository = tmp_path / "models--a--b"
    (repository / "snapshots").mkdir(parents=True)
    folder.rename(repository / "blobs")
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir()
    for path in (repository / "blobs").iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert import_policy(DirectoryModel(path=str(snapshot))).files.keys() == {
        path.name for path in snapshot.iterdir()
    }


@pytest.mark.parametrize("name", ["../evil.gguf", "/etc/passwd", "~/evil.gguf", "a\\b.gguf", ""])
def test_a_packaged_model_stays_in_its_package(name: str):
    with pytest.raises(ValueError, match=r"model\.file"):
        import_policy(PackagedModel(package="safetensors", file=name))


def test_a_package_is_named_and_nothing_else():
    with pytest.raises(ValidationError):
        PackagedModel(package="os.path")


# ----------------------------------------------------------------------------------- chat templates

REACHING = {
    "to Python's classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "to the operating system": "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "by a filter": "{{ ''|attr('__class__') ~ ().__class__.__base__.__subclasses__()[0] }}",
    "through a format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) ~ "
    "messages.__class__.__init__.__globals__['os'] }}",
    "to a method that changes": "{{ messages.append(1) }}",
    "for a name that is not there": "{{ nothing.at.all }}",
    "to syntax of its own": "{% evil %}",
    "to files": "{% include '/etc/passwd' %}",
    "for more than there is": "{{ range(10**12)|list }}",
    "into itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


@pytest.mark.parametrize("name", REACHING)
def test_a_template_that_reaches_out_gets_nothing(name: str, folder: Path, canary: Path):
    (folder / "chat_template.jinja").write_text(REACHING[name].replace("CANARY", str(canary)))
    with pytest.raises(ValueError, match="its chat template cannot be used") as caught:
        chat.encode(load_tokenizer(folder), ChatConfig(system="7"), "12")
    assert "\n" not in str(caught.value) and not canary.exists()


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% "
        "endfor %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999)|map('string')|map('length') %}{% "
        "endfor %}{% endfor %}",
    ],
)
def test_a_template_that_loops_for_ever_is_stopped(
    template: str, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = load_tokenizer(folder)
    monkeypatch.setattr(chat, "TEMPLATE_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"did not end within 0\.3 s"):
        chat.encode(tokenizer, None, "12")
    assert time.monotonic() - began < 5


# -------------------------------------------------------------------------------------- checkpoints


def test_a_policy_is_written_without_pickles(folder: Path, tmp_path: Path):
    policy = load_policy(folder, CPU)
    (child := tmp_path / "child").mkdir()
    save_policy(policy, child, folder)
    assert {path.suffix for path in child.iterdir()} <= {".json", ".safetensors"}
    assert (
        load_file(child / "model.safetensors").keys()
        == load_file(folder / "model.safetensors").keys()
    )


def test_a_tensor_that_is_there_only_by_name_is_no_weight(folder: Path):
    save_file({"lm_head.weight": torch.zeros(0)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="weights is 0"):
        import_policy(DirectoryModel(path=str(folder)))
