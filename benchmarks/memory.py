"""Peak memory of a teacher step (SAPO) and of scoring, each side in a process of its own, against TRL's.

    python -m benchmarks.memory --json

The figure is the largest resident set of the whole process, libraries and model included. The headline is the teacher step on the
GSM8K-like batch; `ratio` is the peer's memory over ours.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import _ours, _trl
from benchmarks._batches import BATCHES
from benchmarks._report import finish, parser, said
from erpd_core.config import SAPO
from erpd_core.optimize import score

BUDGETS = {"gsm8k-like": 1400, "short": 700}


def main() -> None:
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--one", nargs=3, metavar=("SIDE", "WORK", "BATCH"), help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.one:
        print(json.dumps(peak(*args.one)))
        return
    _ours.smollm2()
    results: list[dict[str, Any]] = []
    for batch in BATCHES:
        for work in ("teacher_step", "score"):
            ours, peer = (_apart(side, work, batch) for side in ("ours", "peer"))
            results.append(said({"work": work, "batch": batch, "ours": ours, "peer": peer, "ratio": round(peer / ours, 3)}))
    finish(args.json, "memory", "GB", results, model="SmolLM2-135M", peer="TRL GRPOTrainer, 8 rows a device batch")


def _apart(side: str, work: str, batch: str) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", "--one", side, work, batch]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def peak(side: str, work: str, batch_name: str) -> float:
    """GB at most while two rounds of the work were done: the second has the optimizer's state."""
    folder: Path = _ours.smollm2()
    if side == "ours":
        ours = _ours.Trainer(folder, BUDGETS[batch_name])
        batch = BATCHES[batch_name](ours.policy.model.config.vocab_size)
        for _ in range(2):
            if work == "score":
                score(ours.policy, batch, ours.token_budget)
            else:
                ours.step(batch, torch.full((batch.tokens,), -10.0), _ours.advantage_N(batch), SAPO())
    else:
        with _trl.grpo_trainer(folder, "sapo") as trainer:
            batch = BATCHES[batch_name](trainer.model.config.vocab_size)
            advantage_S = _ours.advantage_N(batch)[batch.offset_S[:-1]]
            inputs = _trl.grpo_inputs(batch, advantage_S, torch.full((batch.tokens,), -10.0), pad=0)
            trainer.current_gradient_accumulation_steps = len(inputs)
            for _ in range(2):
                if work == "score":
                    _trl.logprobs(trainer, inputs)
                else:
                    _trl.step(trainer, inputs)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)


if __name__ == "__main__":
    main()
