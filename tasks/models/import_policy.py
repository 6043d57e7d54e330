"""The stage that imports a campaign's base model into the store.

The model is the embedded tiny one, a directory, a hub model, a GGUF file in an installed package,
or a policy of the store.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from erpd_core.config import (
    ChatConfig,
    DirectoryModel,
    EmbeddedModel,
    HubModel,
    ModelConfig,
    PackagedModel,
    StoredModel,
)
from erpd_core.refs import PolicyRef
from tasks.execution.stage import Context, Stage, Verb
from tasks.host.file_digest import file_digest
from tasks.models.chat import FILE as CHAT_FILE
from tasks.models.model_files import CODE, PATTERNS, TRUST, model_files
from tasks.store import SIDE, Build, open_store
from tasks.untrusted.input_files import expanded
from tasks.untrusted.paths import path_inside

ASSETS = Path(__file__).parent / "assets"


class ImportPolicy(Stage[PolicyRef]):
    """Imports a base model into the store. Its identity is its bytes, not where they came from."""

    KIND: ClassVar[str] = "policy"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = PolicyRef
    VERB: ClassVar[Verb] = "import"
    CPU_ONLY: ClassVar[bool] = True

    files: dict[str, str]
    """File name -> sha256."""
    gguf: str | None = None
    """Name of the one GGUF file, which is converted to safetensors."""
    chat: ChatConfig | None = None
    """How prompts are formatted for it."""
    policy: str | None = None
    """Artifact id of the policy, if the model comes from the store."""
    trust: str | None = None
    """Name in the recipe of the model whose own code may run."""
    folder: str
    """Where the files are now; not part of the identity."""

    def spec(self) -> dict[str, Any]:
        chat = {"chat": self.chat.model_dump(mode="json")} if self.chat else {}
        trust = {"trust": self.trust} if self.trust else {}
        return {"files": self.files, "gguf": self.gguf, **chat, **trust}

    def inputs(self) -> dict[str, str]:
        return {"policy": self.policy} if self.policy else {}

    def compute(self, context: Context, build: Build) -> PolicyRef:
        """Copy or convert the files; a ValueError if their bytes no longer match the identity."""
        if self.gguf:
            convert_gguf(Path(self.folder), self.gguf, self.files[self.gguf], build)
        else:
            for name in self.files:
                self._put(name, build)
        if trust := self.trust:
            build.put(TRUST, lambda path: path.write_text(json.dumps({"code": trust})))
        if chat := self.chat:
            build.put(CHAT_FILE, lambda path: path.write_text(chat.model_dump_json(indent=1)))
        return PolicyRef(id=build.id)

    def _put(self, name: str, build: Build) -> None:
        source = Path(self.folder) / name
        build.put(name, partial(_link_or_copy if self.policy else shutil.copyfile, source))
        try:
            _same(source, (build.folder / (name + SIDE)).read_text(), self.files[name])
        except ValueError:
            build.drop(name)
            raise


def import_policy(model: ModelConfig) -> ImportPolicy:
    """The stage that imports `model`.

    **Raises:** ValueError, with the remedy, if the model is missing or cannot be loaded safely.
    """
    return _import(model).model_copy(update={"chat": model.chat})


def _import(model: ModelConfig) -> ImportPolicy:
    if isinstance(model, EmbeddedModel):
        folder = ASSETS / f"{model.name}-base"
        return _from_folder(folder, model_files(folder))
    if isinstance(model, DirectoryModel):
        return _checked(expanded(model.path, "model.path"), model.trust_code)
    if isinstance(model, PackagedModel):
        # find_spec("a.b") would import a
        spec = importlib.util.find_spec(model.package) if model.package.isidentifier() else None
        if spec is None or spec.origin is None:
            raise ValueError(
                f"model.package: {model.package} is not installed; `make smollm2` installs "
                f"SmolLM2 and what reads it"
            )
        path = path_inside(Path(spec.origin).parent, model.file, "model.file")
        if not path.exists():
            raise ValueError(
                f"model.file: {model.package} has no file {model.file}; choose one it ships"
            )
        return ImportPolicy(
            files={path.name: file_digest(path)}, gguf=path.name, folder=str(path.parent)
        )
    if isinstance(model, StoredModel):
        return _from_store(model.id)
    assert isinstance(model, HubModel)
    return _checked(_download(model), model.trust_code)


def model_from_text(text: str) -> ModelConfig:
    """Parse `erpd eval --model`: `tiny`, a directory, a policy of the store, or a hub id.

    **Raises:** ValueError for any other text.
    """
    if text == "tiny":
        return EmbeddedModel()
    if re.fullmatch("policy-[0-9a-f]{20}", text):
        return StoredModel(id=text)
    if Path(text).is_dir():
        return DirectoryModel(path=text)
    if text.count("/") == 1 and not text.startswith((".", "/")):
        return HubModel(id=text)
    raise ValueError(
        f"model: {text!r} is not a directory, a policy of the store, a hub id (owner/name) or "
        f"`tiny`; check the path"
    )


def _checked(folder: Path, trust: str | None) -> ImportPolicy:
    """Import a folder that this project did not write.

    All its bytes are read for their checksums, but only after every other check has passed.
    """
    names = model_files(folder, trust)
    if trust is None:  # what a model's own code makes of a config is known only when it runs
        from tasks.models.model_check import check_model

        check_model(folder)
    return _from_folder(folder, names, trust)


def _from_folder(folder: Path, names: Sequence[str], trust: str | None = None) -> ImportPolicy:
    return ImportPolicy(
        files={name: file_digest(folder / name) for name in names}, folder=str(folder), trust=trust
    )


def _from_store(policy: str) -> ImportPolicy:
    store = open_store()
    if not store.has(policy):
        raise ValueError(
            f"model: {policy} is not in the store at {store.root}; `erpd lineage CAMPAIGN:ROLE` "
            f"prints what is"
        )
    files = {name: file.sha256 for name, file in store.manifest(policy).files.items()}
    return ImportPolicy(files=files, policy=policy, folder=str(store.path(policy)))


def _same(source: Path, actual: str, expected: str) -> None:
    """Refuse other bytes than expected, by a ValueError: the store would keep them indefinitely."""
    if actual != expected:
        raise ValueError(
            f"model: {source}: its bytes changed since they were first read; run the command again"
        )


def _link_or_copy(source: Path, target: Path) -> None:
    """Link a file of the store. Files there never change, so two artifacts may share one."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _download(model: HubModel) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(
            snapshot_download(
                model.id,
                revision=model.revision,
                allow_patterns=[*PATTERNS, *([CODE] if model.trust_code else [])],
            )
        )
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"model.id: the hub has no model {model.id} (or it is private: set HF_TOKEN)"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"model.id: {model.id} could not be fetched ({type(error).__name__}); check the "
            f"network or give a directory"
        ) from error


def convert_gguf(folder: Path, name: str, asked: str, build: Build) -> None:
    """Dequantize a GGUF file into an ordinary float32 safetensors model with its tokenizer.

    **Arguments:**
        asked: The expected sha256 of the file.
    **Raises:** ValueError if the file has another checksum before or after it is read.
    """
    import torch

    from tasks.models.hf import AutoModelForCausalLM, AutoTokenizer

    _same(folder / name, file_digest(folder / name), asked)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, trust_remote_code=False, local_files_only=True
    )
    tokenizer = AutoTokenizer.from_pretrained(
        folder, gguf_file=name, trust_remote_code=False, local_files_only=True
    )
    _same(folder / name, file_digest(folder / name), asked)
    # the weights are plain float32 now and must be saved as such
    del model.config.quantization_config
    model.hf_quantizer = None
    scratch = build.folder / ".scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    for path in sorted(scratch.iterdir()):
        build.put(path.name, path.rename)
    scratch.rmdir()
