"""The peer of the wall-clock claim: TRL's GRPOTrainer on the same machine.

It has the base, problems, batch and learning rate of an online arm. Sampling, rewards and updates
are TRL's own, with its defaults except for a constant learning rate and no gradient checkpointing,
as in our run. Time for saving weights is not counted. The saved policies are validated by our
evaluation, like our own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from erpd_core.config import CampaignConfig, DirectoryModel
from erpd_core.refs import PolicyRef, Problem, ProblemsRef
from scripts.evidence.record import ArmRecord, TrainingCurve
from tasks.datasets import load_problems
from tasks.execution.progress import Progress
from tasks.execution.stage import Context, get_or_compute
from tasks.grading import AnyGrader, open_grader
from tasks.models.import_policy import import_policy
from tasks.registry import Registry
from tasks.rollouts import SampleRollouts
from tasks.store import Store


def trl_arm(registry: Registry, store: Store, campaign: str) -> ArmRecord:
    """Run TRL in place of the online stage of a campaign that has run.

    It takes the same number of steps, and the same steps are validated.
    """
    row = registry.campaign(campaign)
    config = CampaignConfig.model_validate(row.config)
    refs = {
        attached.role: attached.artifact.meta["ref"]
        for attached in registry.artifacts(campaign)
        if attached.role in ("base", "prompts", "validation")
    }
    prompts, validation = (
        ProblemsRef.model_validate(refs[name]) for name in ("prompts", "validation")
    )
    context = Context(store, config.runtime, Progress(None, "trl"))
    with tempfile.TemporaryDirectory() as scratch, open_grader(prompts.extractor) as grader:
        base = store.path(PolicyRef.model_validate(refs["base"]).id)
        clock = _Clock(Path(scratch), config.online.trail)
        _train(
            base,
            load_problems(store, prompts),
            prompts.extractor,
            grader,
            config,
            clock,
            Path(scratch),
        )
        scores = {}
        for step in clock.saved:
            policy = get_or_compute(
                import_policy(DirectoryModel(path=str(clock.folder(step)))), context
            )
            stage = SampleRollouts(
                policy=policy,
                problems=validation,
                sampling=config.evaluation.validation_sampling,
                seed=config.seed,
            )
            scores[step] = get_or_compute(stage, context).accuracy
    columns = {"reward": tuple(clock.rewards), "seconds_update": tuple(clock.seconds)}
    curve = TrainingCurve(
        iteration=1,
        role="online",
        validation=scores,
        steps=tuple(range(1, len(clock.seconds) + 1)),
        columns=columns,
        seconds=sum(clock.seconds),
    )
    return ArmRecord(policies=(), trainings=(curve,), seconds=())


class _Clock:
    """Records seconds and rewards of each step of a training, and saves the weights of some."""

    def __init__(self, scratch: Path, keep: Sequence[int]) -> None:
        self.scratch, self.keep = scratch, set(keep)
        self.seconds: list[float] = []
        self.rewards: list[float] = []
        self.saved: list[int] = []
        self._began = 0.0

    def folder(self, step: int) -> Path:
        return self.scratch / f"step-{step}"

    def begin(self) -> None:
        self._began = time.perf_counter()

    def end(self, step: int, model: Any, tokenizer: Any) -> None:
        self.seconds.append(round(time.perf_counter() - self._began, 3))
        if step in self.keep:
            model.save_pretrained(self.folder(step))
            tokenizer.save_pretrained(self.folder(step))
            self.saved.append(step)


def _train(
    base: Path,
    problems: Sequence[Problem],
    extractor: str,
    grader: AnyGrader,
    config: CampaignConfig,
    clock: _Clock,
    scratch: Path,
) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    online, sampling = config.online, config.online.sampling
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)

    chats = tokenizer.chat_template is not None

    def reward(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
        texts = [completion[0]["content"] if chats else completion for completion in completions]
        verdicts = grader.grade_many(list(zip(answer, texts, strict=True)), extractor)
        rewards = [float(verdict == "correct") for verdict in verdicts]
        clock.rewards.append(sum(rewards) / len(rewards))
        return rewards

    class StepTimer(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            clock.begin()

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            clock.end(state.global_step, model, tokenizer)

    args = GRPOConfig(
        output_dir=str(scratch / "trl"),
        per_device_train_batch_size=online.prompts_per_step * sampling.samples,
        max_steps=online.steps,
        num_generations=sampling.samples,
        max_completion_length=sampling.max_new_tokens,
        temperature=sampling.temperature,
        learning_rate=online.optimizer.lr,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        seed=config.seed,
        use_cpu=True,
        bf16=False,
        report_to=[],
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
    )
    rows = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": problem.prompt}]
                if chats
                else problem.prompt,
                "answer": problem.answer,
            }
            for problem in problems
        ]
    )
    trainer = GRPOTrainer(
        model,
        [reward],
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[StepTimer()],
    )
    trainer.train()
