"""The context of an iteration: the config, the state of the campaign, and the recorder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from erpd_core.config import CampaignConfig
from erpd_core.refs import Frozen, PolicyRef, ProblemsRef
from flows.steps.recorder import CampaignRecorder
from tasks.datasets import draw_problems


class CampaignState(Frozen):
    """The state of a campaign when an iteration begins."""

    base: PolicyRef
    start: PolicyRef
    """The policy that the iteration starts from: the last student, at first the base."""
    students: dict[int, PolicyRef]
    """Students of earlier iterations; the last one is the start."""
    strategies: tuple[str, ...] = ()
    """The strategy of each earlier iteration."""
    validation: ProblemsRef
    benchmarks: dict[str, ProblemsRef]

    @property
    def earlier_students(self) -> dict[int, PolicyRef]:
        """The students before the start, which strategy 3 can move away from."""
        last = max(self.students, default=0)
        return {index: policy for index, policy in self.students.items() if index < last}


def seed_for(config: CampaignConfig, iteration: int, purpose: str) -> int:
    """The seed of a purpose. A new purpose does not change the seeds of the others."""
    text = f"{config.seed}/{iteration}/{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


@dataclass(frozen=True)
class IterationContext:
    """Everything that the steps of one iteration share."""

    config: CampaignConfig
    index: int
    """Number of the iteration: 1, 2, ..."""
    state: CampaignState
    recorder: CampaignRecorder

    def seed(self, purpose: str) -> int:
        """This iteration's seed for `purpose`."""
        return seed_for(self.config, self.index, purpose)

    def draw_prompts(self) -> ProblemsRef:
        """Draw this iteration's training problems.

        Problems of earlier draws are drawn again only when no others are left (Sec. 4.4).
        """
        earlier = [seed_for(self.config, index, "prompts") for index in range(1, self.index)]
        measured = {"validation": self.state.validation, **self.state.benchmarks}
        seed = self.seed("prompts")
        stage = draw_problems("prompts", self.config.prompts, seed, earlier, measured)
        prompts = self.recorder.run(stage, "draw prompts", "prompts")
        self.recorder.record_problems(prompts, "training")
        if prompts.overlap:
            self.recorder.record_overlap(prompts.overlap)
        return prompts
