"""The peer: TRL's trainers on the same sequences.

They have TRL's own padding, 8 rows per device batch and the default optimizer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from erpd_core.batch import TokenBatch

ROWS = 8
"""Rows per device batch, TRL's default."""


@contextmanager
def grpo_trainer(
    folder: Path, loss_type: str, rows: int = ROWS, accumulate: int = 1
) -> Iterator[Any]:
    """Context manager that yields a GRPOTrainer with an optimizer, on the model in `folder`.

    It is ready for `training_step` and never samples.
    """
    from trl import GRPOConfig, GRPOTrainer

    with tempfile.TemporaryDirectory() as scratch:
        args = GRPOConfig(
            **_common(scratch, rows, accumulate),
            loss_type=loss_type,
            num_generations=rows,
            beta=0.0,
            max_completion_length=512,
        )
        trainer = GRPOTrainer(
            model=_load(folder),
            reward_funcs=_no_reward,
            args=args,
            train_dataset=_placeholder("prompt"),
            processing_class=_tokenizer(folder),
        )
        yield _ready(trainer, accumulate)


@contextmanager
def iw_opd_trainer(
    folder: Path, teacher: Path, rows: int = ROWS, accumulate: int = 1
) -> Iterator[Any]:
    """Context manager that yields TRL's importance-weighted on-policy distillation trainer.

    Its live teacher is in memory.
    """
    from trl.experimental.iw_opd import IWOPDConfig, IWOPDTrainer

    with tempfile.TemporaryDirectory() as scratch:
        args = IWOPDConfig(
            **_common(scratch, rows, accumulate),
            lmbda=1.0,
            max_length=1024,
            max_completion_length=512,
        )
        trainer = IWOPDTrainer(
            model=_load(folder),
            teacher_model=_load(teacher),
            args=args,
            train_dataset=_placeholder("messages"),
            processing_class=_tokenizer(folder),
        )
        yield _ready(trainer, accumulate)


def _common(scratch: str, rows: int, accumulate: int) -> dict[str, Any]:
    return {
        "output_dir": scratch,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": accumulate,
        "learning_rate": 1e-6,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_strategy": "no",
        "save_strategy": "no",
    }


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def _placeholder(kind: str) -> Any:
    """Return a dataset that the trainer's constructor requires and no step reads."""
    from datasets import Dataset

    turns = [{"role": "user", "content": "1 + 1 ="}, {"role": "assistant", "content": "2"}]
    return Dataset.from_list(
        [{"prompt": "1 + 1 ="} if kind == "prompt" else {"messages": turns}] * 64
    )


def _no_reward(completions: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def _ready(trainer: Any, accumulate: int) -> Any:
    trainer.create_optimizer()
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = accumulate
    return trainer


def grpo_inputs(
    batch: TokenBatch, advantage_S: Tensor, old_N: Tensor, pad: int, rows: int = ROWS
) -> list[dict[str, Tensor]]:
    """Return the batch as GRPOTrainer's device batches.

    Prompts are padded on the left and responses on the right, to the longest of the whole batch.
    """
    prompts = [batch.prompts[int(group)] for group in batch.group_S]
    responses = [batch.response(index) for index in range(batch.sequences)]
    mask = pad_sequence([torch.ones_like(response) for response in responses], batch_first=True)
    padded = {
        "prompt_ids": pad_sequence(
            prompts, batch_first=True, padding_value=pad, padding_side="left"
        ),
        "prompt_mask": pad_sequence(
            [torch.ones_like(prompt) for prompt in prompts], batch_first=True, padding_side="left"
        ),
        "completion_ids": pad_sequence(responses, batch_first=True, padding_value=pad),
        "completion_mask": mask,
        "advantages": advantage_S,
        "old_per_token_logps": pad_sequence(old_N.split(batch.length_S.tolist()), batch_first=True),
    }
    parts = [
        {name: value[start : start + rows] for name, value in padded.items()}
        for start in range(0, batch.sequences, rows)
    ]
    return [{**part, "num_items_in_batch": mask.sum()} for part in parts]


def opd_inputs(batch: TokenBatch, pad: int, rows: int = ROWS) -> list[dict[str, Tensor]]:
    """Return the batch as IWOPDTrainer's device batches, with prompt and response in one row."""
    inputs = []
    for part in grpo_inputs(batch, batch.reward_S, torch.zeros(batch.tokens), pad, rows):
        ids, mask = (
            torch.cat([part[f"prompt_{kind}"], part[f"completion_{kind}"]], 1)
            for kind in ("ids", "mask")
        )
        labels = torch.where(part["completion_mask"] > 0, part["completion_ids"], -100)
        labels = torch.cat([torch.full_like(part["prompt_ids"], -100), labels], 1)
        inputs.append(
            {
                "input_ids": ids,
                "attention_mask": mask,
                "labels": labels,
                "prompts": part["prompt_ids"],
            }
        )
    return inputs


def step(trainer: Any, inputs: list[dict[str, Tensor]]) -> float:
    """Take one optimizer step over the device batches with the trainer's own `compute_loss`.

    **Returns:** The sum of their losses.
    """
    total = 0.0
    trainer.optimizer.zero_grad(set_to_none=True)
    for part in inputs:
        loss = trainer.compute_loss(trainer.model, part)
        trainer.accelerator.backward(loss)
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
    trainer.optimizer.step()
    return total


@torch.no_grad()
def logprobs(trainer: Any, inputs: list[dict[str, Tensor]]) -> list[Tensor]:
    """Run TRL's pass for old log-probs and entropy. Returns the log-probs of each device batch."""
    batches = []
    for part in inputs:
        ids, mask = (
            torch.cat([part[f"prompt_{kind}"], part[f"completion_{kind}"]], 1)
            for kind in ("ids", "mask")
        )
        lp, *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, part["completion_ids"].size(1), compute_entropy=True
        )
        batches.append(lp)
    return batches
