"""Trains the tiny base model from scratch and saves it as a Hugging Face model directory.

    python -m scripts.make_tiny_base                  # rewrites tasks/models/assets/tiny-base
    python -m scripts.make_tiny_base --out base --steps 200

It takes a few minutes on two cores. Its problems are those of `tasks/datasets/tiny_world.py`;
demonstrations come from the train split only. The architecture is Qwen3's, with 0.2 M parameters
and a head size of 32, which vLLM's CPU kernels support. Training is seeded: the same machine,
library versions and thread count give the same weights.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from erpd_core.refs import Problem
from tasks.datasets import tiny_world

ASSET = Path(__file__).resolve().parents[1] / "tasks" / "models" / "assets" / "tiny-base"
PAD, EOS = "<pad>", "<eos>"
BATCH = 256
PEAK_LR = 3e-3
WARMUP = 50


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per character.

    It has no unknown token: text outside the alphabet is an error, not a silent gap.
    """
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, *tiny_world.ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()  # joins tokens without spaces
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Return a Qwen3 model with 3 layers and random weights."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config).float()


def batch_of_demonstrations(
    tokenizer: PreTrainedTokenizerFast, step: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (tokens_BT, labels_BT) of new train problems with one demonstration each.

    Labels are -100 on the prompt and on padding.
    """
    rng = random.Random(f"demonstrations/{seed}/{step}")
    drawn = tiny_world.problems("train", BATCH, rng.getrandbits(32))
    texts = [p.prompt + tiny_world.demonstration(rng, p) + EOS for p in drawn]
    tokens_BT = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt").input_ids
    labels_BT = tokens_BT.masked_fill(tokens_BT == tokenizer.pad_token_id, -100)
    labels_BT[:, : len(drawn[0].prompt)] = -100  # every prompt has the same length
    return tokens_BT, labels_BT


def train(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int
) -> None:
    """Train `model` in place: cross-entropy on responses, AdamW, warm-up, cosine decay to zero."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01
    )
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - WARMUP))
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / WARMUP, total_iters=WARMUP)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [WARMUP])
    model.train()
    started = time.perf_counter()
    for step in range(steps):
        tokens_BT, labels_BT = batch_of_demonstrations(tokenizer, step, seed)
        logits_BTV = model(tokens_BT[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), labels_BT[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            print(
                f"step {step + 1:5d}/{steps}  loss {loss.item():.4f}  "
                f"{time.perf_counter() - started:.0f} s",
                flush=True,
            )


@torch.no_grad()
def sample(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    asked: list[Problem],
    k: int,
    temperature: float,
) -> list[list[str]]:
    """Return `k` responses to each problem, as text without special tokens."""
    model.eval()
    prompts = tokenizer([p.prompt for p in asked for _ in range(k)], return_tensors="pt")
    out_BT = model.generate(
        **prompts, do_sample=True, temperature=temperature, top_k=0, top_p=1.0, max_new_tokens=16
    )
    texts = tokenizer.decode(out_BT[:, prompts.input_ids.shape[1] :], skip_special_tokens=True)
    return [texts[i : i + k] for i in range(0, len(texts), k)]


def report(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 300, k: int = 8
) -> None:
    """Print validation accuracy at two temperatures, and the share and accuracy of each mode."""
    drawn = tiny_world.problems("validation", count, seed=0)
    for temperature in (1.0, 0.6):
        answers = [
            (p, r)
            for p, responses in zip(
                drawn, sample(model, tokenizer, drawn, k, temperature), strict=True
            )
            for r in responses
        ]
        seen, right = Counter(), Counter()
        for problem, response in answers:
            mode = tiny_world.mode(problem, response)
            seen[mode] += 1
            right[mode] += tiny_world.extract(response) == problem.answer
        print(
            f"T = {temperature}: accuracy {right.total() / len(answers):.3f} on {count} "
            f"validation problems x {k}"
        )
        for mode, n in seen.most_common():
            print(f"    {mode:7s} share {n / len(answers):.3f}  accuracy {right[mode] / n:.3f}")


def main() -> None:
    """Train and save the model, then report on the saved copy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ASSET)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(2)
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary of {len(tokenizer)}"
    )
    # save it before training, which changes its padding settings
    tokenizer.save_pretrained(args.out)
    train(model, tokenizer, args.steps, args.seed)
    model.save_pretrained(args.out)

    saved = AutoTokenizer.from_pretrained(args.out)
    ids = saved(tiny_world.ALPHABET).input_ids
    if saved.decode(ids) != tiny_world.ALPHABET or len(ids) != len(tiny_world.ALPHABET):
        raise SystemExit("the saved tokenizer does not round-trip")
    torch.manual_seed(args.seed)
    report(AutoModelForCausalLM.from_pretrained(args.out, dtype=torch.float32), saved)


if __name__ == "__main__":
    main()
