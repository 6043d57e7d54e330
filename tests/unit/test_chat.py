"""Chat templates with system message and options, kept with a policy and those trained from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers import context

from erpd_core.config import ChatConfig, DirectoryModel, RuntimeConfig
from tasks.engines import open_engine
from tasks.execution.stage import get_or_compute
from tasks.models.chat import encode, read_chat
from tasks.models.import_policy import ASSETS, import_policy
from tasks.models.policy import load_policy, load_tokenizer, save_policy
from tasks.store import Store

TEMPLATE = (
    "{% if thinking is defined and thinking %}9{% endif %}"
    "{% for message in messages %}{{ '+' if message.role == 'system' else '' }}{{ message.content "
    "}}{% endfor %}"
    "{% if add_generation_prompt %}={% endif %}"
)
CHAT = ChatConfig(system="7", options={"thinking": True})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded base with a chat template."""
    copy = Path(shutil.copytree(ASSETS / "tiny-base", tmp_path / "model"))
    (copy / "chat_template.jinja").write_text(TEMPLATE)
    return copy


def test_prompts_go_through_the_template_with_what_chat_adds(folder: Path):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(encode(tokenizer, None, "12")) == "12="
    assert tokenizer.decode(encode(tokenizer, CHAT, "12")) == "9+712="
    assert (
        tokenizer.decode(encode(tokenizer, ChatConfig(options={"thinking": False}), "12")) == "12="
    )


def test_a_model_without_a_template_takes_the_text_and_refuses_chat():
    tokenizer = load_tokenizer(ASSETS / "tiny-base")
    assert tokenizer.decode(encode(tokenizer, None, "12+")) == "12+"
    with pytest.raises(ValueError, match=r"model\.chat"):
        encode(tokenizer, CHAT, "12+")


def test_chat_goes_with_the_policy_and_with_what_is_trained_from_it(folder: Path, tmp_path: Path):
    here = context(Store(tmp_path / "store"))
    base = get_or_compute(import_policy(DirectoryModel(path=str(folder), chat=CHAT)), here)
    engine = open_engine(here.store.path(base.id), RuntimeConfig(device="cpu"))
    assert engine.decode(engine.encode("12")) == "9+712="
    child = tmp_path / "child"
    child.mkdir()
    save_policy(
        load_policy(here.store.path(base.id), RuntimeConfig(device="cpu")),
        child,
        here.store.path(base.id),
    )
    assert read_chat(child) == CHAT


def test_chat_is_part_of_what_a_policy_is_and_only_where_it_is_given(folder: Path):
    plain = import_policy(DirectoryModel(path=str(folder)))
    assert "chat" not in plain.spec()
    others = [
        ChatConfig(system="7"),
        ChatConfig(system="8"),
        ChatConfig(options={"thinking": True}),
    ]
    identities = {
        import_policy(DirectoryModel(path=str(folder), chat=chat)).identity() for chat in others
    }
    assert len({plain.identity(), *identities}) == 4


def test_a_chat_that_says_nothing_is_refused():
    with pytest.raises(ValueError, match="system or options"):
        ChatConfig()
